"""Every registered token mixer keeps the contract in 1-D, 2-D and 3-D."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medformer.models.backbone.mixers import MIXERS
from medformer.models.backbone.variants import build_backbone

SIZES = {1: [(1,), (37,)], 2: [(1, 1), (5, 3), (14, 14), (9, 16)], 3: [(1, 1, 1), (2, 5, 3), (6, 6, 6)]}
CASES = [(name, dims, size) for name in MIXERS for dims, sizes in SIZES.items() for size in sizes]


def make(name: str, dims: int, stage: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return MIXERS[name].part(32, spatial_dims=dims, stage=stage, kernel_size=None).eval()


def sample(dims: int, size: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, 32, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "dims", "size"), CASES)
def test_keeps_shape_and_passes_gradients(name: str, dims: int, size: tuple[int, ...]) -> None:
    x = sample(dims, size).requires_grad_()
    y = make(name, dims)(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize(("name", "dims", "size"), CASES)
def test_a_sample_does_not_depend_on_the_others(name: str, dims: int, size: tuple[int, ...]) -> None:
    mixer, x = make(name, dims), sample(dims, size)
    other = x.clone()
    other[1] = 100 * other[1] + 3
    with torch.no_grad():
        torch.testing.assert_close(mixer(x)[0], mixer(other)[0])


@pytest.mark.parametrize("name", list(MIXERS))
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_forward_changes_no_state(name: str, dims: int) -> None:
    mixer = make(name, dims).train()
    before = {key: value.clone() for key, value in mixer.state_dict().items()}
    attributes = {key for key in vars(mixer)}
    small, large = sample(dims, SIZES[dims][0]), sample(dims, SIZES[dims][-1])
    with torch.no_grad():
        first = mixer(large)
        mixer(small)
        torch.testing.assert_close(mixer(large), first)
    assert {key for key in vars(mixer)} == attributes
    for key, value in mixer.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", list(MIXERS))
def test_memory_layout_does_not_change_the_result(name: str) -> None:
    mixer, x = make(name, 2), sample(2, (9, 16))
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), mixer(x.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("name", list(MIXERS))
def test_state_round_trips(name: str) -> None:
    mixer, x = make(name, 2), sample(2, (9, 16))
    torch.manual_seed(7)
    other = MIXERS[name].part(32, spatial_dims=2, stage=3, kernel_size=None).eval()
    other.load_state_dict(mixer.state_dict())
    with torch.no_grad():
        assert torch.equal(mixer(x), other(x))


@pytest.mark.parametrize("name", list(MIXERS))
def test_gradients_match_finite_differences(name: str) -> None:
    mixer = make(name, 2).double()
    x = sample(2, (3, 2), batch=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: mixer(t)[:, :2], (x,), atol=1e-6)


def test_pooling_leaves_padding_out_of_the_mean_in_every_dimension() -> None:
    for dims in (1, 2, 3):
        constant = torch.full((1, 32, *(4,) * dims), 2.5)
        torch.testing.assert_close(make("pooling", dims)(constant), torch.zeros_like(constant))


def test_pooling_in_3d_is_the_mean_over_the_cube() -> None:
    x = sample(3, (3, 3, 3))
    center = make("pooling", 3)(x)[:, :, 1, 1, 1]
    torch.testing.assert_close(center, x.flatten(2).mean(-1) - x[:, :, 1, 1, 1])


def test_random_mixing_stays_an_average_off_its_reference_size() -> None:
    mixer = make("random", 2)
    for size in ((7, 7), (11, 4), (1, 1), (16, 16)):
        matrix = mixer.matrix_for(size)
        assert matrix.shape == (size[0] * size[1],) * 2
        torch.testing.assert_close(matrix.sum(-1), torch.ones(len(matrix)))
        assert bool((matrix >= 0).all())
    assert not any(parameter.requires_grad for parameter in mixer.parameters())


def test_attention_refuses_channels_that_its_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="got 40 channels, expected a multiple of 32"):
        MIXERS["attention"].part(40, spatial_dims=2, stage=0, kernel_size=None)


@pytest.mark.parametrize(
    "family", ["poolformer", "poolformerv2", "identityformer", "randformer", "convformer", "caformer"]
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_family_gives_four_maps_in_every_dimension(family: str, dims: int) -> None:
    size = "s18" if family in {"convformer", "caformer"} else "s12"
    backbone = build_backbone(f"{family}_{size}", spatial_dims=dims, in_channels=1).eval()
    x = torch.randn(1, 1, *(45, 64, 33)[:dims])
    with torch.no_grad():
        maps = backbone(x)
    assert [m.shape[1] for m in maps] == [64, 128, 320, 512]
    # 45 -> 11 -> 6 -> 3 -> 2 along the first axis: floor((n - 3) / 4) + 1, then ceil(n / 2).
    assert [m.shape[2] for m in maps] == [11, 6, 3, 2]
    assert backbone.strides == tuple((s,) * dims for s in (4, 8, 16, 32))
