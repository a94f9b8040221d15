"""Token mixers against other implementations of the same mathematics: timm's modules, and dense matrices."""

from __future__ import annotations

import itertools

import pytest
import torch
from timm.models.efficientvim import HSMSSD
from timm.models.focalnet import FocalModulation as TimmFocalModulation
from timm.models.shvit import SHSA
from torch import Tensor, nn

from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.frequency.adaptive_filter import FrequencyFilter
from medformer.models.backbone.mixers.window_attention import WindowAttention
from medformer.models.backbone.mlp import Mlp

SIZE = (9, 6)


def moved(module: nn.Module) -> nn.Module:
    """Move every parameter, and the statistics of batch norms, so that no scale of 1 or bias of 0 hides a mistake."""
    torch.manual_seed(3)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return module.eval()


def same_weights(ours: nn.Module, theirs: nn.Module, order: list[str]) -> nn.Module:
    """Give ours the weights of the other, which `order` names in the order of ours."""
    state = theirs.state_dict()
    pairs = zip(ours.named_parameters(), order, strict=True)
    ours.load_state_dict({key: state[other].reshape(own.shape) for (key, own), other in pairs})
    return ours.eval()


def equal(ours: nn.Module, theirs: nn.Module, channels: int) -> None:
    x = torch.randn(2, channels, *SIZE, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        right = theirs(x)
        torch.testing.assert_close(ours(x), right[0] if isinstance(right, tuple) else right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("levels", [2, 3])
def test_focal_modulation_equals_timm(levels: int) -> None:
    theirs = moved(TimmFocalModulation(16, focal_window=3, focal_level=levels))
    spec = {"name": "focal_modulation", "levels": levels}
    ours = make_mixer(spec, 16, spatial_dims=2, stage=0)  # type: ignore[arg-type]
    contexts = [f"focal_layers.{at}.0.weight" for at in range(levels)]
    order = ["f.weight", "f.bias", *contexts, "h.weight", "h.bias", "proj.weight", "proj.bias"]
    equal(same_weights(ours, theirs, order), theirs, 16)


def test_single_head_attention_equals_timm_with_its_batch_norms_folded() -> None:
    theirs = moved(SHSA(20, 16, 6))
    spec = {"name": "single_head_attention", "attending": 6}
    ours = make_mixer(spec, 20, spatial_dims=2, stage=0)  # type: ignore[arg-type]
    folded = nn.ModuleDict({"norm": theirs.pre_norm, "qkv": theirs.qkv.fuse(), "proj": theirs.proj[1].fuse()})
    equal(same_weights(ours, folded, list(folded.state_dict())), theirs, 20)


def test_hidden_state_mixing_equals_timm() -> None:
    theirs = moved(HSMSSD(12, state_dim=5))
    ours = make_mixer({"name": "hidden_state", "states": 5}, 12, spatial_dims=2, stage=0)
    order = [
        "A",
        "D",
        "BCdt_proj.conv.weight",
        "dw.conv.weight",
        "hz_proj.conv.weight",
        "out_proj.conv.weight",
    ]
    equal(same_weights(ours, theirs, order), theirs, 12)


def windows(size: tuple[int, ...], window: tuple[int, ...], spread: bool) -> Tensor:
    """Which positions see each other, `(N, N)`, written down position by position."""
    numbers = []
    for position in itertools.product(*map(range, size)):
        number = []
        for at, have, want in zip(position, size, window, strict=True):
            reach = min(want, have)
            number.append(at % -(-have // reach) if spread else at // reach)
        numbers.append(number)
    found = torch.tensor(numbers)
    return (found[:, None] == found[None]).all(-1)


@pytest.mark.parametrize("name", ["window_attention", "grid_attention"])
@pytest.mark.parametrize("size", [(10,), (7, 4), (1, 9), (5, 2, 3)])
def test_window_attention_is_dense_attention_with_the_other_windows_masked(name: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mixer = make_mixer({"name": name, "window": 4, "heads": 2}, 8, spatial_dims=len(size), stage=0)
    assert isinstance(mixer, WindowAttention)
    x = torch.randn(2, 8, *size)
    tokens = x.flatten(2).transpose(1, 2)
    query, key, value = (tokens @ mixer.qkv.weight.T).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / 2.0
    seen = windows(size, (4,) * len(size), name == "grid_attention")
    mixed = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value
    right = (mixed.transpose(1, 2).flatten(2) @ mixer.proj.weight.T).transpose(1, 2).reshape(x.shape)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), right, atol=1e-5, rtol=1e-4)


def test_the_frequency_filter_is_complex_algebra_on_the_full_spectrum() -> None:
    mixer = moved(FrequencyFilter(6, groups=2))
    x = torch.randn(2, 6, 5, 4, 3)
    spectrum = torch.fft.fftn(x, dim=(2, 3, 4), norm="ortho")

    def layer(part: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        matrix = torch.block_diag(*torch.view_as_complex(weight))
        return (
            torch.einsum("oi,bixyz->boxyz", matrix, part) + torch.view_as_complex(bias).flatten()[:, None, None, None]
        )

    def on_parts(part: Tensor, function: nn.Module) -> Tensor:
        return torch.complex(function(part.real), function(part.imag))

    with torch.no_grad():
        hidden = on_parts(layer(spectrum, mixer.weight1, mixer.bias1), nn.ReLU())
        mask = on_parts(layer(hidden, mixer.weight2, mixer.bias2), nn.Softshrink(0.01))
        filtered = (spectrum * mask)[..., :2]
        right = x + torch.fft.irfftn(filtered, s=(5, 4, 3), dim=(2, 3, 4), norm="ortho")
        torch.testing.assert_close(mixer(x), right, atol=1e-5, rtol=1e-4)


def test_inception_shares_channels_out_by_stage() -> None:
    def heads(channels: int, stage: int) -> int:
        return int(make_mixer("inception", channels, spatial_dims=2, stage=stage).heads)

    # Inception Transformer S: attending heads of the first block of each stage.
    assert [heads(width, at) for at, width in enumerate((96, 192, 320, 384))] == [1, 3, 8, 11]
    with pytest.raises(ValueError, match="cannot be shared out"):
        make_mixer({"name": "inception", "attention_heads": 6}, 192, spatial_dims=2, stage=1)


def test_inception_averages_the_last_position_of_an_odd_axis_alone() -> None:
    mixer = moved(make_mixer("inception", 32, spatial_dims=1, stage=0))
    with torch.no_grad():
        for layer in (mixer.conv_in, mixer.pool, mixer.fuse):
            for parameter in layer.parameters():
                parameter.zero_()
        x = torch.randn(1, 32, 6, generator=torch.Generator().manual_seed(5))
        x[..., 5] = x[..., 4]
        torch.testing.assert_close(mixer(x[..., :5]), mixer(x)[..., :5])


@pytest.mark.parametrize("name", ["random", "token_mlp", "global_filter"])
def test_the_grid_of_the_finest_map_is_halved_from_stage_to_stage(name: str) -> None:
    grids = [
        next(
            tuple(module.grid)
            for module in make_mixer({"name": name, "grid": [12, 7]}, 4, spatial_dims=2, stage=stage).modules()
            if hasattr(module, "grid")
        )
        for stage in (0, 1, 3)
    ]
    assert grids == [(12, 7), (6, 3), (1, 1)]


def test_an_mlp_has_at_least_one_hidden_channel() -> None:
    assert Mlp(8, 0.01, "star_relu")(torch.ones(1, 8, 3)).shape == (1, 8, 3)


def counted(name: str, width: int, **given: int) -> int:
    with torch.device("meta"):
        mixer = make_mixer({"name": name, **given}, width, spatial_dims=2, stage=0)
    return sum(parameter.numel() for parameter in mixer.parameters())


def stem_steps_and_head(widths: tuple[int, ...]) -> int:
    """Two convolutions of the stem, one before each further stage, a batch norm for each; a norm and 1000 classes."""
    steps = itertools.pairwise((3, widths[0] // 2, *widths))
    return sum(9 * a * b + 3 * b for a, b in steps) + 2 * widths[-1] + 1000 * (widths[-1] + 1)


@pytest.mark.parametrize(
    ("widths", "depths", "published"),
    [
        ((48, 56, 112, 220), (2, 2, 4, 2), 2_979_700),
        ((48, 64, 128, 256), (3, 3, 6, 3), 5_507_224),
        ((64, 96, 192, 384), (3, 3, 6, 3), 12_036_520),
        ((96, 128, 256, 512), (3, 3, 6, 3), 21_250_120),
    ],
)
def test_cas_vit_built_on_additive_attention_would_have_its_published_size(
    widths: tuple[int, ...], depths: tuple[int, ...], published: int
) -> None:
    count = stem_steps_and_head(widths)
    for width, depth in zip(widths, depths, strict=True):
        local, norms, mlp = 2 * width**2 + 14 * width, 4 * width, 8 * width**2 + 5 * width
        count += depth * (counted("additive_attention", width) + local + norms + mlp)
    assert count == published


@pytest.mark.parametrize(
    ("widths", "attending", "published"),
    [
        ((96, 192, 320, 384), ([1] * 3, [3] * 3, [7] * 4 + [9] * 5, [11] * 3), 19_866_344),
        ((96, 192, 384, 512), ([1] * 4, [3] * 6, [8] * 7 + [10] * 7, [15] * 6), 47_866_216),
        ((96, 192, 448, 640), ([1] * 4, [3] * 6, [10] * 9 + [12] * 9, [19] * 8), 86_637_096),
    ],
)
def test_inception_transformer_built_on_inception_would_have_its_published_size(
    widths: tuple[int, ...], attending: tuple[list[int], ...], published: int
) -> None:
    count = stem_steps_and_head(widths)
    for width, heads, side, scales in zip(widths, attending, (56, 28, 14, 7), (0, 0, 2, 2), strict=True):
        count += side**2 * width
        for number in heads:
            norms, mlp = 4 * width, 8 * width**2 + 5 * width
            count += counted("inception", width, attention_heads=number) + norms + mlp + scales * width
    assert count == published
