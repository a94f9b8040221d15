"""AGUNet: its gate as published, its levels on any grid, and that nothing of it is idle."""

from __future__ import annotations

import pytest
import torch

from medformer.config.shared import ModelConfig
from medformer.models.backbone.variants import count_parameters
from medformer.models.networks.agunet import AttentionGate
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid


def test_a_gate_weighs_positions_of_the_skip_by_both_maps() -> None:
    torch.manual_seed(0)
    gate, skip, coarser = AttentionGate(3, 6, 4).eval(), torch.randn(2, 6, 3, 4, 5), torch.randn(2, 4, 3, 4, 5)
    # 1x1 from 6 and from 4 to 3 channels, from both to 1, each with the two factors of its norm.
    assert count_parameters(gate) == (6 * 3 + 6) + (4 * 3 + 6) + (6 * 1 + 2)
    with torch.no_grad():
        ratio = gate(skip, coarser) / skip
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
        assert 0 < float(ratio.min()) < float(ratio.max()) < 1
        assert not torch.allclose(gate(skip, -coarser), gate(skip, coarser))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 5.0)])
def test_coarser_logits_stay_on_their_grids_and_every_parameter_gets_a_gradient(
    spacing: tuple[float, float, float],
) -> None:
    network = build_network(ModelConfig(name="agunet", deep_supervision=True), Grid(2, 3, (16, 16, 8), spacing)).train()
    outputs = network(torch.randn(2, 2, 15, 12, 7))
    coarser = [(8, 6, 4)] if spacing[2] == 1 else [(8, 6, 7), (4, 3, 7)]
    assert [tuple(level.shape[2:]) for level in outputs] == [(15, 12, 7), *coarser]
    sum(level.square().sum() for level in outputs).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
