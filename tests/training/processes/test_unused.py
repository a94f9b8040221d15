from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from monai.networks import nets
from tiny_backbone import tiny_backbones
from torch import Tensor, nn

from medformer.config.shared import ModelConfig, TrainingConfig
from medformer.models.networks import dformer, peers
from medformer.models.networks.build import NETWORKS, build_network
from medformer.models.networks.grid import Grid
from medformer.training.devices import build_fabric
from medformer.training.losses.objectives import ClassificationObjective, Moment, VolumeObjective
from medformer.training.losses.segmentation import build_volume_loss
from medformer.training.processes.unused import unused_parameters

SIZE = (32, 32, 16)
OBJECTIVE = VolumeObjective(build_volume_loss("dice_ce"))
DIMS = {name: max(n for n in (1, 2, 3) if f"{n}-D" not in NETWORKS[name].cannot) for name in NETWORKS.examples()}


@pytest.fixture(scope="module", autouse=True)
def _small_networks() -> Iterator[None]:
    with tiny_backbones(), pytest.MonkeyPatch.context() as patched:
        for name, few in {"SWIN_FEATURES": 12, "FIRST_FILTERS": 8, "MOST_FILTERS": 80}.items():
            patched.setattr(peers, name, few)
        patched.setattr(nets, "resnet18", partial(nets.resnet18, widen_factor=0.25))
        patched.setattr(dformer, "CHANNELS", (32, 64, 128, 256))
        yield


def network(name: str, dims: int, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    config, grid = ModelConfig(name=name, backbone="tiny", **changes), Grid(2, 3, SIZE[:dims])
    return build_network(config, grid, target="segmentation" if segments(name) else "classification")


def segments(name: str) -> bool:
    return "segmentation" not in NETWORKS[name].cannot


def item(dims: int) -> dict[str, Any]:
    size = SIZE[:dims]
    mask = torch.zeros(1, *size, dtype=torch.int64)
    return {"image": torch.randn(2, *size), "mask": mask, "label": torch.tensor(1), "id": "a"}


@pytest.mark.parametrize(
    ("name", "deep"),
    [
        pytest.param(name, deep, marks=() if deep and name in ("meta_unet", "smp:unet/resnet18") else pytest.mark.slow)
        for name in DIMS
        for deep in (False, True)
    ],
)
def test_the_loss_depends_on_every_parameter_of_every_network(name: str, deep: bool) -> None:
    objective = OBJECTIVE if segments(name) else ClassificationObjective(inputs="image")
    assert unused_parameters(network(name, DIMS[name], deep_supervision=deep), objective, item(DIMS[name])) == ()


def test_what_gets_no_gradient_is_found_without_computing_one() -> None:
    model, case = network("meta_polyp", 2, setting="as_published"), item(2)
    model.decoder.head.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = unused_parameters(model, OBJECTIVE, case)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.train()
    OBJECTIVE(model, {key: torch.stack([case[key]] * 2) for key in ("image", "mask")}, Moment(0, 0, 0)).backward()
    assert found == tuple(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)
    assert found, "the released network ends before its last residual"


class Shared(nn.Module):
    """One layer under two names, of which one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.second = self.first

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return self.second(edges["a"])


class Looking(Shared):
    """Decides by a number what it uses."""

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return super().forward(edges) * (1 if edges["a"].sum() > 0 else 2)


class Strict(Shared):
    """Refuses tensors without numbers in its own way."""

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        if edges["a"].device.type == "meta":
            raise KeyError("meta")
        return super().forward(edges)


def test_names_of_one_layer_are_one_and_a_network_that_looks_at_numbers_is_not_told() -> None:
    case = {"edges": {"a": torch.ones(3)}, "label": torch.tensor(1), "id": "a"}
    assert unused_parameters(Shared(), ClassificationObjective(), case) == ()
    assert unused_parameters(Looking(), ClassificationObjective(), case) is None
    assert unused_parameters(Strict(), ClassificationObjective(), case) is None


@pytest.mark.parametrize("unused", [False, True])
def test_processes_search_for_unused_parameters_where_there_are_some(unused: bool) -> None:
    config = TrainingConfig(accelerator="cpu", strategy="ddp")
    strategy: Any = build_fabric(config, unused=unused).strategy
    assert strategy._ddp_kwargs["find_unused_parameters"] is unused
