from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from no_float64 import WithoutFloat64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.data.network_inputs import ItemImages
from medformer.training.pretraining.pretrain import ReconstructionLoss, TrainingMean, VisibleMean


@pytest.fixture
def edges() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    return {atlas: generator.normal(size=(7, 10)).astype(np.float32) for atlas in ("a", "b")}


class Constant(nn.Module):
    """Reconstructs one number everywhere, and remembers what it was shown."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.shown: list[Mapping[str, Tensor]] = []

    def forward(self, edges: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.shown.append(edges)
        return {atlas: self.value.expand_as(block) for atlas, block in edges.items()}


class HalfHidden:
    """Hides about half of the connections, or of the places of an image."""

    noise = 0.0

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def draw(self, inputs: Any, generator: torch.Generator | None = None) -> Any:
        if isinstance(inputs, Tensor):
            return torch.rand(len(inputs), 1, *inputs.shape[2:], generator=generator) < 0.5
        return {atlas: torch.rand(block.shape, generator=generator) < 0.5 for atlas, block in inputs.items()}

    def identity(self) -> dict[str, Any]:
        return {}


def of_edges(edges: Any, size: int, seed: int, train: Any = None) -> ReconstructionLoss:
    guess = TrainingMean(train or edges)
    return ReconstructionLoss(HalfHidden("edges"), edges, guess, unit="subjects", batch_size=size, seed=seed)


def of_images(images: Any, size: int, seed: int) -> ReconstructionLoss:
    return ReconstructionLoss(HalfHidden("image"), images, VisibleMean(), unit="patches", batch_size=size, seed=seed)


def test_errors_are_summed_where_float64_is(edges: dict[str, NDArray[np.float32]]) -> None:
    class OnDevice(Constant):
        def forward(self, inputs: Any) -> Any:
            return {name: found.as_subclass(WithoutFloat64) for name, found in super().forward(inputs).items()}

    assert of_edges(edges, 3, 1)(OnDevice(0.5)) == of_edges(edges, 3, 1)(Constant(0.5))


def test_the_same_connections_are_hidden_every_time(edges: dict[str, NDArray[np.float32]]) -> None:
    validation = of_edges(edges, 3, 1)
    model = Constant(0.5)
    torch.manual_seed(0)
    first = validation(model)
    torch.rand(5)
    assert validation(model) == first
    assert len(model.shown) == 6
    hidden = np.concatenate([block["a"].numpy() == 0 for block in model.shown[:3]])
    other = np.concatenate([block["b"].numpy() == 0 for block in model.shown[:3]])
    expected = sum(((edges[atlas] - 0.5) ** 2)[mask].mean() for atlas, mask in (("a", hidden), ("b", other)))
    assert first == pytest.approx(expected, rel=1e-5)
    assert of_edges(edges, 3, 2)(model) != first


def test_the_comparison_guesses_the_training_mean(edges: dict[str, NDArray[np.float32]]) -> None:
    generator = np.random.default_rng(1)
    train = {atlas: generator.normal(size=(20, 10)).astype(np.float32) for atlas in edges}
    model = Constant(0.0)
    found = of_edges(edges, 100, 1, train).against_mean(model)
    errors = {}
    for atlas, block in edges.items():
        hidden = model.shown[0][atlas].numpy() == 0
        errors[atlas] = (block**2)[hidden], ((block - train[atlas].mean(0)) ** 2)[hidden]
        row = found["atlases"][atlas]
        assert row["hidden"] == hidden.sum()
        assert row["masked_mse"] == pytest.approx(errors[atlas][0].mean(), rel=1e-5)
        assert row["mean_edge_mse"] == pytest.approx(errors[atlas][1].mean(), rel=1e-5)
    pooled = np.concatenate([errors["a"][1], errors["b"][1]])
    assert found["mean_edge_mse"] == pytest.approx(pooled.mean(), rel=1e-5)
    assert found["subjects"] == 7 and found["hidden"] == len(pooled)


class Items:
    def __init__(self, images: NDArray[np.float32]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int], /) -> dict[str, Tensor]:
        return {"image": torch.from_numpy(self.images[index[1]])}


class Blurred(nn.Module):
    """Reconstructs from neighbors."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.shown: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shown.append(image)
        return self.gain * F.avg_pool3d(image, 3, 1, 1)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_reconstruction_is_judged_on_hidden_voxels_against_the_mean_of_the_visible_ones(size: int) -> None:
    images = np.random.default_rng(0).normal(3.0, 1.0, (5, 2, 6, 5, 4)).astype(np.float32)
    validation = of_images(ItemImages(Items(images)), size, 4)
    model = Blurred()
    torch.manual_seed(0)
    first = validation(model)
    torch.rand(5)
    assert validation(model) == first
    shown = torch.cat(model.shown[: len(model.shown) // 2])
    hidden = shown == 0
    truth = torch.from_numpy(images)
    error = (F.avg_pool3d(shown, 3, 1, 1) - truth).square()[hidden].mean()
    assert first == pytest.approx(error.item(), rel=1e-5)
    record = validation.against_mean(model)
    channels = zip(truth.flatten(0, 1), hidden.flatten(0, 1), strict=True)
    mean = torch.stack([channel[~mask].mean() for channel, mask in channels]).reshape(5, 2, 1, 1, 1)
    expected = (mean - truth).square()[hidden].mean()
    assert record["mean_visible_mse"] == pytest.approx(expected.item(), rel=1e-5)
    assert record == {**record, "masked_mse": first, "hidden": int(hidden.sum()), "patches": 5}
    assert of_images(images, size, 5)(model) != first
