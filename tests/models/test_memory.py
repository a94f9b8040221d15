"""Expected memory and time of training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medformer.config import VolumeConfig
from medformer.config.shared import Precision
from medformer.imaging.geometry import Axes
from medformer.models.memory import FRAGMENTS, LiveTensors, LowPrecision, training_cost, training_memory
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


def abstract(patch: tuple[int, ...], **changes: object) -> nn.Module:
    """The same network in shapes alone: to draw its weights takes longer than to follow a step."""
    with torch.device("meta"):
        return build(patch, **changes)


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
    copies = (large - small) / FRAGMENTS["cpu"] / (7 * voxels * 2 * 4)
    assert 11 <= copies <= 17


def test_memory_grows_in_proportion_to_the_batch() -> None:
    model = abstract((32, 32, 32))
    one, two, four = (training_memory(model, (32, 32, 32), batch, in_channels=1) for batch in (1, 2, 4))

    assert four - two == pytest.approx(2 * (two - one), rel=0.05)


@pytest.mark.parametrize("name", ["meta_unet_fine", "monai:dynunet"])
def test_the_cost_of_a_large_batch_is_what_its_step_takes(name: str) -> None:
    def small(patch: Axes, strides: tuple[Axes, ...], kernel_sizes: tuple[Axes, ...]) -> nn.Module:
        return build(patch, name=name)

    patch: Axes = (32, 32, 32)
    cost = training_cost(small, in_channels=1)
    found = {batch: cost(patch, (), (), batch) for batch in (2, 11, 1000)}
    step = training_memory(build(patch, name=name), patch, 11, in_channels=1)

    assert found[11] - found[2] == pytest.approx(step - found[2], rel=0.02)
    assert found[1000] > 50 * (found[11] - found[2])


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
        training_memory(abstract((64,) * 3, checkpointing=flag), (64,) * 3, 2, in_channels=1) for flag in (False, True)
    )

    assert recomputed < kept


class Convolutions(nn.Module):
    """Some convolutions in a row, perhaps with norms between them."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv3d(8, 8, 3, padding=1) for _ in range(8))
        self.norms = nn.ModuleList(nn.GroupNorm(1, 8) if norm else nn.Identity() for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = layer(norm(x))
        return x


def kept(norm: bool, device: str, precision: Precision, side: int = 32) -> float:
    """Bytes of the maps of a step."""
    small, large = (
        training_memory(Convolutions(norm), (edge,) * 3, 1, in_channels=1, device=device, precision=precision)
        for edge in (side // 2, side)
    )
    return (large - small) / FRAGMENTS[device]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_low_precision_keeps_half_of_what_layers_give(precision: Precision) -> None:
    assert kept(False, "cpu", precision) < 0.75 * kept(False, "cpu", "32-true")
    # On a GPU a norm gives float32, of which the next layer makes a copy in low precision.
    assert kept(True, "cuda", precision) > 1.2 * kept(True, "cpu", precision)
    assert kept(True, "cuda", precision) < 1.2 * kept(True, "cuda", "32-true")


def test_what_is_counted_in_low_precision_has_the_types_of_autocast() -> None:
    def types(device: str) -> list[torch.dtype]:
        found: list[torch.dtype] = []

        def note(module: nn.Module, given: object, out: object) -> None:
            if isinstance(out, Tensor):
                found.append(out.dtype)

        handles = [module.register_forward_hook(note) for module in model.modules()]
        model.to(device)(torch.randn(1, 1, 16, 16, 16, device=device))
        for handle in handles:
            handle.remove()
        return found

    model = build((16, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        expected = types("cpu")
    with LowPrecision("cpu", "bf16-mixed"):
        found = types("meta")
    assert found == expected and {torch.bfloat16} <= set(expected)


@pytest.mark.parametrize("workspaces", [False, True])
def test_a_convolution_needs_room_for_copies_to_work_on(workspaces: bool) -> None:
    with LiveTensors(workspaces=workspaces) as live:
        x, weight = torch.zeros(1, 8, 16, 16, 16, device="meta"), torch.zeros(4, 8, 3, 3, 3, device="meta")
        y = torch.conv3d(x, weight, padding=1)
    assert live.now == 4 * (x.numel() + weight.numel() + y.numel())
    assert live.peak == (2 if workspaces else 1) * live.now


def test_a_cost_is_found_once_for_each_question() -> None:
    built: list[tuple[int, ...]] = []

    def remember(patch: tuple[int, ...], strides: object, kernel_sizes: object) -> nn.Module:
        built.append(patch)
        return abstract(patch)

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
    assert set(seen) == {(2, 3, 352, 352)} and min(few) > 0


def test_named_inputs_are_timed() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, edges: dict[str, Tensor]) -> Tensor:
            return torch.stack([self.layer(block) for block in edges.values()]).sum(0)

    assert time_network(Sum(), {"a": torch.zeros(8, 4), "b": torch.zeros(8, 4)}, 8).step > 0
