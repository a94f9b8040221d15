from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from torch import Tensor, nn

from medformer.data.network_inputs import ItemImages, batches, cases_of
from medformer.inference.classification import ValidationLoss

LABELS = np.array([0, 1, 1, 0, 1, 0, 0])


@pytest.fixture
def edges() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    return {atlas: generator.normal(size=(7, 10)).astype(np.float32) for atlas in ("a", "b")}


class FirstEdge(nn.Module):
    """The log odds are a subject's first connection."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        odds = self.scale * edges["a"][:, 0]
        return torch.stack([torch.zeros_like(odds), odds], 1)


class FirstVoxel(nn.Module):
    """The log odds are an image's first voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        odds = self.scale * images[:, 0, 0, 0, 0]
        return torch.stack([torch.zeros_like(odds), odds], 1)


class Counted:
    """Items as training has them, whose images are an array's; remembers which were asked for."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self.images = images
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int], /) -> dict[str, Tensor]:
        self.asked.append(index)
        return {"image": torch.from_numpy(self.images[index[1]])}


@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_loss_is_the_cross_entropy_over_subjects(edges: dict[str, NDArray[np.float32]], size: int) -> None:
    probability = 1 / (1 + np.exp(-edges["a"][:, 0].astype(float)))
    assert ValidationLoss(edges, LABELS, size)(FirstEdge()) == pytest.approx(log_loss(LABELS, probability), rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_images_are_judged_as_connections_are_and_read_once(edges: dict[str, NDArray[np.float32]], size: int) -> None:
    images = edges["a"].reshape(7, 1, 5, 2, 1)
    items = Counted(images)
    expected = ValidationLoss(edges, LABELS, size)(FirstEdge())
    assert ValidationLoss(images, LABELS, size)(FirstVoxel()) == pytest.approx(expected)
    assert ValidationLoss(ItemImages(items), LABELS, size)(FirstVoxel()) == pytest.approx(expected)
    assert items.asked == [(0, number) for number in range(7)]


def test_batches_are_copies_and_the_last_one_may_be_smaller(edges: dict[str, NDArray[np.float32]]) -> None:
    images = edges["a"].reshape(7, 1, 5, 2)
    images.flags.writeable = False
    parts = list(batches(images, FirstVoxel(), 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    parts[0].zero_()
    assert images.any() and cases_of(images) == cases_of(edges) == 7
    assert [len(part["b"]) for part in batches(edges, FirstEdge(), 5)] == [5, 2]
