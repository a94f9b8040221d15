"""PLS-Net: the published counts and the published order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medformer.config.shared import ModelConfig
from medformer.models.backbone.variants import count_parameters
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.plsnet import PLSNet


def test_it_has_the_published_size() -> None:
    with torch.device("meta"):
        network = build_network(ModelConfig(name="plsnet"), Grid(1, 2, (64, 64, 64)))
        parts = PLSNet(3, 1, 2)
    assert count_parameters(network) == 250_714
    assert sum(count_parameters(parts.get_submodule(name)) for name in ("down", "levels")) == 243_627
    assert sum(count_parameters(parts.get_submodule(name)) for name in ("bridges", "up", "head")) == 7_087


def test_it_computes_what_was_published() -> None:
    """Literally as released: each level sees the image itself, and logits are made at full resolution."""
    torch.manual_seed(0)
    network, x = PLSNet(3, 1, 2).eval(), torch.randn(1, 1, 32, 16, 24)

    def scaled(maps: Tensor, factor: float) -> Tensor:
        return F.interpolate(maps, scale_factor=factor, mode="trilinear", align_corners=False)

    with torch.no_grad():
        one = network.levels[0](torch.cat((network.down[0](x), scaled(x, 0.5)), 1))
        two = network.levels[1](torch.cat((network.down[1](one), scaled(x, 0.25)), 1))
        three = network.levels[2](torch.cat((network.down[2](two), scaled(x, 0.125)), 1))
        up = scaled(network.up[2](three), 2)
        up = scaled(network.up[1](torch.cat((up, network.bridges[1](two)), 1)), 2)
        up = scaled(network.up[0](torch.cat((up, network.bridges[0](one)), 1)), 2)
        torch.testing.assert_close(network(x), network.head(up))


def test_every_parameter_gets_a_gradient() -> None:
    network = build_network(ModelConfig(name="plsnet"), Grid(1, 2, (16, 16, 16))).train()
    logits = network(torch.randn(2, 1, 9, 16, 12))
    assert logits.shape == (2, 2, 9, 16, 12)
    logits.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
