"""D-Former: published counts, windows that reach where they should, and maps smaller than a window."""

from __future__ import annotations

import pytest
import torch

from medformer.config.shared import ModelConfig
from medformer.models.backbone.variants import count_parameters
from medformer.models.networks import dformer
from medformer.models.networks.build import build_network
from medformer.models.networks.dformer import DFormer, slice_axis
from medformer.models.networks.grid import Grid, PaddedNetwork

_BODY, _FULL_HEAD, _HALF_HEAD = 44_353_344, 296_448, 1_182_720


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        inference, training = (DFormer(3, 1, 14, deep_supervision=deep) for deep in (False, True))
    parts = {name: count_parameters(part) for name, part in inference.named_children()}
    assert parts["embed"] == 3_360 and parts["head"] == _FULL_HEAD
    stages = [count_parameters(stage) for stage in inference.encoder]
    merges = [count_parameters(merge) for merge in inference.merges] + [0]
    assert [a + b for a, b in zip(stages, merges, strict=True)] == [375_360, 1_488_000, 13_022_976, 14_197_248]
    assert count_parameters(inference) == _BODY + _FULL_HEAD == 44_649_792
    assert count_parameters(training) == 44_649_792 + _HALF_HEAD


def test_every_parameter_gets_a_gradient_with_deep_supervision() -> None:
    torch.manual_seed(0)
    network = DFormer(2, 1, 2, deep_supervision=True).train()
    full, half = network(torch.randn(1, 1, 64, 96))
    assert full.shape == (1, 2, 64, 96) and half.shape == (1, 2, 32, 48)
    (full.square().mean() + half.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_a_small_map_changes_nothing_for_the_maps_after_it() -> None:
    torch.manual_seed(0)
    network = DFormer(2, 1, 2).eval()
    x = torch.randn(1, 1, 160, 32)
    with torch.no_grad():
        before = network(x)
        network(x[..., :32, :])
        torch.testing.assert_close(network(x), before)


def test_merging_and_expanding_keep_neighbors_together() -> None:
    torch.manual_seed(0)
    network = DFormer(2, 1, 2)
    merge, expand = network.merges[0], network.expands[-1]
    x = torch.zeros(1, 96, 8, 8)
    y = x.clone()
    y[..., 2:4, 4:6] = torch.randn(96, 2, 2)
    changed = (merge(y) != merge(x)).any(1)[0].nonzero().tolist()
    assert changed == [[1, 2]]
    coarse = torch.zeros(1, 192, 4, 4)
    coarse[..., 1, 2] = torch.randn(192)
    spread = (expand(coarse) != expand(torch.zeros(1, 192, 4, 4))).any(1)[0].nonzero().tolist()
    assert spread == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_the_slices_of_the_paper_are_the_axis_whose_positions_lie_furthest_apart() -> None:
    spacings = (None, (1.0, 1.0, 1.0), (0.8, 0.8, 1.5), (0.8, 0.8, 5.0), (5.0, 0.8, 0.8))
    assert [slice_axis(spacing) for spacing in spacings] == [0, 0, 0, 2, 0]
    with torch.device("meta"):
        network = build_network(ModelConfig(name="dformer"), Grid(1, 2, (64, 64, 16), (0.8, 0.8, 5.0)))
        assert network(torch.empty(1, 1, 60, 64, 9)).shape == (1, 2, 60, 64, 9)
    assert isinstance(network, PaddedNetwork) and network.divisors == (32, 32, 16)
    stage = network.network.encoder[0]  # type: ignore[index]
    assert [block.token_mixer.window for block in stage.blocks] == [(8, 8, 2)] * 2


def test_padding_is_no_vector_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dformer, "CHANNELS", (32, 32, 64, 64))
    network = build_network(ModelConfig(name="dformer"), Grid(1, 2, (32, 32)))
    with torch.no_grad():
        assert float(network.network.embed(torch.zeros(1, 1, 8, 8)).std(1).min()) > 0.9  # type: ignore[union-attr,operator]
