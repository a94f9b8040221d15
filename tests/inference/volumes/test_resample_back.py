from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from medformer.imaging.resample import resample
from medformer.inference.volumes.label_map import Stream, write_classes

torch.set_num_threads(1)

Shape = tuple[int, int, int]


def probabilities(shape: Shape, classes: int = 4, seed: int = 0) -> Tensor:
    logits = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(seed))
    return torch.softmax(2 * logits, 0)


def pieces(volume: Tensor, axis: int, thickness: int) -> Iterator[Tensor]:
    return iter(volume.split(thickness, axis + 1))


def stream(volume: Tensor, axis: int, thickness: int = 3) -> Stream:
    first, second, third = volume.shape[1:]
    return Stream((first, second, third), pieces(volume, axis, thickness))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1, 3, 16, 100])
@pytest.mark.parametrize("target", [(11, 9, 14), (20, 30, 25), (5, 4, 6), (11, 40, 14), (1, 1, 1)])
def test_labels_are_those_of_the_resampled_probabilities(target: Shape, axis: int, thickness: int) -> None:
    given = probabilities((11, 9, 14))
    labels = np.zeros(target, np.uint8)
    write_classes([stream(given, axis, thickness)], labels, axis=axis, values=[0, 3, 7, 200])
    whole = torch.from_numpy(resample(given.numpy(), target, order=1))
    chosen = np.array([0, 3, 7, 200])[whole.argmax(0).numpy()]
    top = whole.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-5).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels[clear], chosen[clear])


def test_where_grids_coincide_nothing_is_interpolated() -> None:
    given = torch.zeros(2, 7, 8, 30)
    given[1] = (torch.rand(7, 8, 30, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    labels = np.zeros((7, 8, 30), np.uint8)
    confidence = write_classes([stream(given, 2)], labels, axis=2, values=[0, 1])
    np.testing.assert_array_equal(labels, given[1].numpy())
    # Voxels without label tie at 0 : 0 and belong to the first class.
    assert confidence == {0: 0.0, 1: 1.0}


def test_streams_of_different_grids_add_up() -> None:
    fine, coarse = probabilities((12, 10, 16)), probabilities((6, 5, 9), seed=1)
    labels = np.zeros((12, 10, 16), np.uint8)
    streams = [stream(0.75 * fine, 2, 5), stream(0.25 * coarse, 2, 2)]
    confidence = write_classes(streams, labels, axis=2, values=range(4))
    whole = 0.75 * fine + 0.25 * torch.from_numpy(resample(coarse.numpy(), (12, 10, 16), order=1))
    assert (labels == whole.argmax(0).numpy()).mean() > 0.999
    for value, mean in confidence.items():
        assert mean == pytest.approx(float(whole.max(0).values.numpy()[labels == value].mean()), abs=1e-3)


def test_a_turned_view_is_written_where_it_belongs() -> None:
    given = probabilities((4, 6, 9))
    labels = np.zeros((9, 4, 6), np.uint8)
    write_classes([stream(given, 2)], labels[::-1].transpose(1, 2, 0), axis=2, values=range(4))
    np.testing.assert_array_equal(labels, given.argmax(0).numpy().transpose(2, 0, 1)[::-1])


def test_a_class_that_is_nowhere_has_no_confidence() -> None:
    given = torch.zeros(3, 2, 2, 2)
    given[2] = 0.9
    labels = np.zeros((2, 2, 2), np.uint16)
    assert write_classes([stream(given, 0)], labels, axis=0, values=[0, 5, 300]) == {300: pytest.approx(0.9)}
    assert (labels == 300).all()
