"""Mixers of hierarchical associative memories: published counts, symmetry, its penalty, and maps of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medformer.errors import ConfigError
from medformer.models.backbone.blocks import BlockName
from medformer.models.backbone.mixers import make_mixer
from medformer.models.backbone.mixers.token_mlp import TokenMlp
from medformer.models.backbone.mlp import Mlp, Tying, tying_penalty
from medformer.models.backbone.norms import JointNorm
from medformer.models.backbone.variants import build_backbone, count_parameters, with_head

# Classes, then parameters of the vanilla (sequential), parallel (and asymmetric), and symmetric network.
PUBLISHED = {
    ("paramixer32_s", 1000): (19_868_136, 19_466_728, 10_977_768),
    ("paramixer16_s", 1000): (21_699_048, 20_093_416, 11_303_400),
    ("paramixer32_b", 1000): (62_011_624, 61_108_456, 32_571_112),
    ("paramixer16_b", 1000): (67_015_912, 63_403_240, 34_188_520),
    ("paramixer32_l", 1000): (211_521_512, 209_113_064, 107_847_656),
    ("paramixer16_l", 1000): (227_225_576, 217_591_784, 114_520_040),
    ("paramixer16_s", 10): (21_191_178, 19_585_546, 10_795_530),
}
TIED: list[BlockName] = ["parallel", "symmetric", "asymmetric"]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "classes"), list(PUBLISHED))
def test_parameter_counts_are_the_published_ones(name: str, classes: int) -> None:
    def count(block: BlockName) -> int:
        with torch.device("meta"):
            return count_parameters(with_head(build_backbone(name, block=block), name, classes))

    counts = tuple(count(block) for block in ("sequential", "parallel", "symmetric"))
    assert counts == PUBLISHED[name, classes]
    assert count("asymmetric") == counts[1]


def test_a_parallel_block_adds_both_branches_of_one_norm() -> None:
    torch.manual_seed(0)
    block = build_backbone("convformer_v8", spatial_dims=1, in_channels=1, block="parallel").eval().block(0)
    x = random(2, 32, 9)
    normed = block.norm1(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x)[0], x + block.token_mixer(normed) + block.mlp(normed))


@pytest.mark.parametrize("module", ["mlp", "token_mlp"])
def test_symmetric_weights_are_the_gradient_of_an_energy_and_others_are_not(module: str) -> None:
    def jacobian(tying: Tying) -> Tensor:
        torch.manual_seed(0)
        if module == "mlp":
            part: nn.Module = Mlp(6, 2.0, "plain_gelu", tying)
            return torch.autograd.functional.jacobian(lambda v: part(v[None, :, None])[0, :, 0], random(6))
        part = TokenMlp(4, spatial_dims=1, stage=3, made_for=(6,), tying=tying)
        return torch.autograd.functional.jacobian(lambda v: part(v[None, None])[0, 0], random(6))

    symmetric = jacobian(Tying("symmetric"))
    torch.testing.assert_close(symmetric, symmetric.T)
    for kind in ("free", "asymmetric"):
        other = jacobian(Tying(kind))  # type: ignore[arg-type]
        assert not torch.allclose(other, other.T)


def test_asymmetric_weights_start_from_the_symmetric_ones() -> None:
    torch.manual_seed(0)
    mlp = Mlp(6, 2.0, "star_relu", Tying("asymmetric"))
    assert mlp.fc2 is not None
    nn.init.zeros_(mlp.fc2.weight)
    same = Mlp(6, 2.0, "star_relu", Tying("symmetric"))
    same.load_state_dict({key: value for key, value in mlp.state_dict().items() if key != "fc2.weight"})
    torch.testing.assert_close(mlp(random(1, 6, 3)), same(random(1, 6, 3)))


@pytest.mark.parametrize("block", TIED)
def test_only_asymmetric_weights_are_penalized(block: BlockName) -> None:
    model = build_backbone("convformer_v8", mixers=["token_mlp"], block=block, asymmetry=0.5)
    penalty = tying_penalty(model)
    if block != "asymmetric":
        assert penalty == 0.0
        return
    own = [value for key, value in model.named_parameters() if key.endswith("fc2.weight")]
    assert len(own) == 16 and isinstance(penalty, Tensor)
    torch.testing.assert_close(penalty, 0.5 * torch.stack([value.square().sum() for value in own]).sum())
    penalty.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None for value in own)


def test_weights_of_positions_keep_their_sums_on_a_larger_map() -> None:
    torch.manual_seed(0)
    mixer = TokenMlp(8, spatial_dims=2, stage=3, made_for=(4, 3))
    constant = torch.full((1, 8, 4, 3), 0.7)
    small, large = mixer(constant), mixer(torch.full((1, 8, 8, 6), 0.7))
    torch.testing.assert_close(large.mean((2, 3)), small.mean((2, 3)))
    norm = JointNorm(8, (4, 3))
    torch.testing.assert_close(norm(random(2, 8, 5, 7)), nn.functional.group_norm(random(2, 8, 5, 7), 1, eps=1e-6))


def test_an_mlp_over_positions_is_the_transposed_mlp_over_channels() -> None:
    torch.manual_seed(0)
    mixer = make_mixer({"name": "token_mlp", "hidden": 5}, 8, spatial_dims=1, stage=3)
    assert isinstance(mixer, TokenMlp)
    mlp = Mlp(49, 5 / 49, "plain_gelu")
    mlp.load_state_dict(mixer.state_dict())
    x = random(2, 8, 49)
    torch.testing.assert_close(mixer(x), mlp(x.transpose(1, 2)).transpose(1, 2))


def test_biases_and_tied_weights_are_refused_together() -> None:
    with pytest.raises(ValueError, match="symmetric weights: got an activation with biases"):
        Mlp(6, 2.0, "gelu", Tying("symmetric"))
    with pytest.raises((ConfigError, ValueError), match="activation with biases"):
        build_backbone("poolformer_s12", block="symmetric")
