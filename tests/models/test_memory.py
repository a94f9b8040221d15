"""Expected memory and time of training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medformer.config import VolumeConfig
from medformer.models.memory import LiveTensors, training_cost, training_memory
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.timing import time_images, time_network

STRIDES = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1))
KERNELS = ((3, 3, 3),) * 4


def build(
    patch: tuple[int, ...], strides: object = STRIDES, kernel_sizes: object = KERNELS, **changes: object
) -> nn.Module:
    config = VolumeConfig().model.model_copy(update=changes)
    return build_network(config, Grid(1, 3, patch, strides=STRIDES, kernel_sizes=KERNELS))


def test_live_tensors_are_counted_once_and_forgotten() -> None:
    with LiveTensors() as live:
        first = torch.zeros(1000, device="meta")
        view = first.view(10, 100)
        second = first + 1
        assert live.now == 8000
        del first, view
        assert live.now == 4000
        del second
    assert live.now == 0
    assert live.peak == 8000


def test_what_the_backward_pass_keeps_is_in_the_peak() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(10):
                x = (x * self.scale).sigmoid()
            return x

    voxels = 32**3
    small, large = (training_memory(Squares(), (side,) * 3, 1, in_channels=2, device="cpu") for side in (32, 32 * 2))
    # The image and ten results are kept; the loss and the gradients on their way back add a few more.
    copies = (large - small) / (7 * voxels * 2 * 4)
    assert 11 <= copies <= 18


def test_memory_grows_in_proportion_to_the_batch() -> None:
    model = build((32, 32, 32))
    one, two, four = (training_memory(model, (32, 32, 32), batch, in_channels=1) for batch in (1, 2, 4))

    assert four - two == pytest.approx(2 * (two - one), rel=0.05)


@pytest.mark.parametrize("name", ["meta_unet", "monai:dynunet", "monai:unet"])
def test_a_network_is_left_as_it_was(name: str) -> None:
    model = build((32, 32, 32), name=name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    training_memory(model, (32, 32, 32), 2, in_channels=1)
    timing = time_images(model, (32, 32, 32), 2, in_channels=1)

    assert timing.step > timing.case > 0
    assert not model.training
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in model.parameters())
    if name == "meta_unet":
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.rand(1), expected)


def test_recomputing_takes_less() -> None:
    kept, recomputed = (
        training_memory(build((64,) * 3, checkpointing=flag), (64,) * 3, 2, in_channels=1) for flag in (False, True)
    )

    assert recomputed < kept


def test_a_cost_is_found_once_for_each_question() -> None:
    built: list[tuple[int, ...]] = []

    def remember(patch: tuple[int, ...], strides: object, kernel_sizes: object) -> nn.Module:
        built.append(patch)
        return build(patch)

    cost = training_cost(remember, in_channels=1)
    answers = [cost((32, 32, 32), STRIDES, KERNELS, batch) for batch in (2, 4, 2)]

    assert answers[0] == answers[2] < answers[1]
    assert built == [(32, 32, 32)]


def test_a_classifier_is_priced_too() -> None:
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))

    assert training_memory(model, (16, 16, 16), 2, in_channels=1) > 0


def test_images_are_timed_by_a_few_of_a_batch_and_never_one() -> None:
    seen: list[tuple[int, ...]] = []
    model = nn.Sequential(nn.Conv2d(3, 1, 1))
    model[0].register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))

    few = time_images(model, (352, 352), 16, in_channels=3)
    assert set(seen) == {(2, 3, 352, 352)} and few.step > few.case


def test_named_inputs_are_timed() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, edges: dict[str, Tensor]) -> Tensor:
            return torch.stack([self.layer(block) for block in edges.values()]).sum(0)

    assert time_network(Sum(), {"a": torch.zeros(8, 4), "b": torch.zeros(8, 4)}, 8).step > 0
