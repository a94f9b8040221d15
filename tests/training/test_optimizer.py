from __future__ import annotations

import pytest
import torch
from torch import nn

from medformer.config.shared import ModelConfig, TrainingConfig
from medformer.errors import ConfigError
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pretrained import network_encoder
from medformer.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)


class LayerNormChannels(nn.Module):
    """A norm of our own, whose weight is not one-dimensional."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1))


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), LayerNormChannels(), nn.Linear(4, 1))
    network[3].bias.requires_grad_(False)
    return network


def test_only_weights_of_two_or_more_axes_outside_norms_decay() -> None:
    network = _network()
    decayed, kept = build_optimizer(network, TrainingConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(network[0].weight), id(network[3].weight)]
    assert len(kept["params"]) == 4 and all(p.requires_grad for p in kept["params"])


def test_the_rate_reaches_every_group() -> None:
    optimizer = build_optimizer(_network(), TrainingConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_moments_survive_being_saved(precision: str) -> None:
    def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (number + 1)) if parameter.requires_grad else None
        optimizer.step()

    config = TrainingConfig(precision=precision)  # type: ignore[arg-type]
    network, other = _network(), _network()
    optimizer, continued = build_optimizer(network, config), build_optimizer(other, config)
    step(network, optimizer)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    other.load_state_dict(network.state_dict())
    load_optimizer_tensors(continued, saved)
    step(network, optimizer)
    step(other, continued)
    assert len(saved) == 3 * 6
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_nothing_to_save_before_the_first_step() -> None:
    optimizer = build_optimizer(_network(), TrainingConfig())
    assert optimizer_tensors(optimizer) == {}
    load_optimizer_tensors(optimizer, {})
    assert optimizer_tensors(optimizer) == {}


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("meta_light", "timm:test_efficientnet"), ("smp:unet/resnet18", "caformer_s18"), ("meta_unet", "convformer_v8")],
)
def test_the_encoder_learns_at_its_share_of_the_rate(name: str, backbone: str) -> None:
    network = build_network(ModelConfig(name=name, backbone=backbone), Grid(3, 1, (32, 32)))
    encoder = network_encoder(network)
    assert encoder is not None
    inside = {id(parameter) for parameter in encoder.parameters()}
    optimizer = build_optimizer(network, TrainingConfig(encoder_lr=0.25, weight_decay=0.3))
    set_learning_rate(optimizer, 0.5)
    for group in optimizer.param_groups:
        assert {id(p) in inside for p in group["params"]} == {group["lr"] == 0.125}
        assert (group["weight_decay"] == 0.3) == all(p.shape[1:].numel() > 1 for p in group["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_moments_of_a_slower_encoder_survive_being_saved() -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = build_network(ModelConfig(name="meta_light", backbone="timm:test_efficientnet"), Grid(3, 1, (32, 32)))
        return network, build_optimizer(network, TrainingConfig(encoder_lr=0.25))

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, factor: float) -> None:
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = torch.full_like(parameter, factor * (number + 1))
        set_learning_rate(optimizer, 0.01)
        optimizer.step()

    (network, optimizer), (other, continued) = fresh(), fresh()
    step(network, optimizer, 0.1)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    other.load_state_dict(network.state_dict())
    load_optimizer_tensors(continued, saved)
    step(network, optimizer, -0.2)
    step(other, continued, -0.2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_a_network_without_an_encoder_has_no_rate_for_one() -> None:
    with pytest.raises(ConfigError, match=r"training\.encoder_lr=0\.5 .*Set training\.encoder_lr=1"):
        build_optimizer(_network(), TrainingConfig(encoder_lr=0.5))


def test_without_a_share_the_groups_are_those_of_before() -> None:
    network = build_network(ModelConfig(name="meta_light", backbone="timm:test_efficientnet"), Grid(3, 1, (32, 32)))
    decayed, kept = build_optimizer(network, TrainingConfig()).param_groups
    assert [id(p) for p in decayed["params"]] == [id(p) for p in network.parameters() if p.shape[1:].numel() > 1]
    assert len(kept["params"]) + len(decayed["params"]) == len(list(network.parameters()))
