from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.prepare_case import PreparedCase
from medformer.imaging.geometry import Axes, Geometry
from medformer.inference.volumes.segmenter import ValidationVolumeDice


def _prepared(image: NDArray[np.float32], classes: NDArray[Any] | None, lowest: NDArray[np.float32]) -> PreparedCase:
    first, second, third = image.shape[1:]
    return PreparedCase("a", image, classes, np.eye(4), Geometry((first, second, third), np.eye(4)), lowest)


class Thresholds(nn.Module):
    """Class 1 above 0.5, class 2 above 1.5; remembers the shapes it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.shown: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shown.append(tuple(image.shape))
        distance = image - torch.arange(3.0).reshape(1, 3, 1, 1, 1)
        return -self.scale * distance.square()


def _plan(*patch: int) -> VolumePlan:
    first, second, third = patch
    size: Axes = (first, second, third)
    labels = ((1, "Anterior"), (7, "Posterior"))
    return VolumePlan((1.0, 1.0, 1.0), (Intensity(),), labels, size, ((2, 2, 2),), ((3, 3, 3),), 2)


def _volume(*size: int, seed: int = 0, wrong: float = 0.1) -> PreparedCase:
    """Classes, and an image that says them, wrongly in some voxels."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 3, size).astype(np.uint8)
    said = np.where(generator.random(size) < wrong, generator.integers(0, 3, size), classes)
    return _prepared(said[None].astype(np.float32), classes, np.zeros(1, np.float32))


def _dice(volume: PreparedCase) -> list[float]:
    said, truth = volume.image[0], volume.classes
    assert truth is not None
    return [2 * ((said == k) & (truth == k)).sum() / ((said == k).sum() + (truth == k).sum()) for k in (1, 2)]


@pytest.mark.parametrize("patch", [(4, 4, 4), (12, 8, 4), (16, 8, 2), (20, 20, 20)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_score_is_the_mean_dice_over_labels_and_cases(patch: tuple[int, ...], batch_size: int) -> None:
    volumes = [_volume(12, 8, 4, seed=number, wrong=0.1 * number) for number in range(3)]
    validation = ValidationVolumeDice(volumes, _plan(*patch), batch_size, windows=100)
    model = Thresholds()
    expected = np.mean([_dice(volume) for volume in volumes])
    assert validation(model) == pytest.approx(expected) == validation(model)
    assert validation.measure == "dice"
    assert all(shape[0] <= batch_size and shape[2:] == patch for shape in model.shown)


def test_a_volume_smaller_than_the_window_is_padded_with_its_minimum_and_padding_does_not_count() -> None:
    volume = _volume(5, 9, 3)
    lifted = _prepared(volume.image, volume.classes, np.full(1, 2.0, np.float32))
    assert ValidationVolumeDice([lifted], _plan(8, 8, 8), 1)(Thresholds()) == pytest.approx(
        ValidationVolumeDice([volume], _plan(8, 8, 8), 1)(Thresholds())
    )
    shown: list[Tensor] = []

    class Watching(Thresholds):
        def forward(self, image: Tensor) -> Tensor:
            shown.append(image)
            return super().forward(image)

    ValidationVolumeDice([lifted], _plan(8, 8, 8), 1)(Watching())
    padded = np.pad(volume.image[0], ((2, 1), (0, 0), (3, 2)), constant_values=2.0)
    np.testing.assert_array_equal(shown[0][0, 0, 1:7].numpy(), padded[1:7, :8])


def test_labels_that_are_nowhere_count_1_and_false_ones_0() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    silent = _prepared(empty[None].astype(np.float32), empty, np.zeros(1, np.float32))
    assert ValidationVolumeDice([silent], _plan(4, 4, 4))(Thresholds()) == 1.0
    false = _prepared(np.ones((1, 4, 4, 4), np.float32), empty, np.zeros(1, np.float32))
    assert ValidationVolumeDice([false], _plan(4, 4, 4))(Thresholds()) == 0.5


def test_of_a_large_case_few_windows_are_seen_and_most_of_them_have_labels() -> None:
    classes = np.zeros((40, 40, 40), np.uint8)
    classes[:20, :12, :20] = 1
    image = classes[None].astype(np.float32)
    image[0, 20:] = 1.0
    model = Thresholds()
    validation = ValidationVolumeDice(
        [_prepared(image, classes, np.zeros(1, np.float32))], _plan(4, 4, 4), 5, windows=8
    )
    score = validation(model)
    assert [shape[0] for shape in model.shown] == [5, 3]
    # Six windows full of label 1, one or two in the half that is predicted without cause, label 2 nowhere.
    assert score in [pytest.approx((1 + 2 * 6 / (2 * 6 + false)) / 2) for false in (1, 2)]
    few = np.zeros((40, 40, 40), np.uint8)
    few[5, 5, 5] = 1
    lonely = _prepared(few[None].astype(np.float32), few, np.zeros(1, np.float32))
    assert ValidationVolumeDice([lonely], _plan(4, 4, 4), 8, windows=8)(model) == 1.0
    assert model.shown[-1][0] == 8
