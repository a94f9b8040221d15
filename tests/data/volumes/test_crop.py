from __future__ import annotations

import numpy as np
import pytest

from medformer.data.volumes.prepare.deformation import centered_start, cut

ARRAY = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def test_a_box_inside_is_copied() -> None:
    box = cut(ARRAY, (1, 0, 2), (2, 3, 2), 0.0)
    assert np.array_equal(box, ARRAY[:, 1:3, 0:3, 2:4])
    box[...] = -1.0
    assert ARRAY.min() == 0.0


def test_what_lies_outside_is_filled_per_channel() -> None:
    box = cut(ARRAY, (-1, 2, 1), (5, 4, 3), np.array([-7.0, -9.0]))
    assert box.shape == (2, 5, 4, 3)
    assert np.array_equal(box[:, 1:4, :2], ARRAY[:, :, 2:4, 1:4])
    assert (box[0, 0] == -7.0).all() and (box[1, :, 2:] == -9.0).all()


def test_a_single_value_fills_a_label_map() -> None:
    labels = np.ones((3, 3, 3), np.uint8)
    box = cut(labels, (-1, -1, -1), (5, 5, 5), 0)
    assert box.dtype == np.uint8 and box.sum() == 27 and box[1:4, 1:4, 1:4].all()


@pytest.mark.parametrize("start", [(-9, 0, 0), (8, 0, 0), (3, 0, 0)])
def test_a_box_elsewhere_is_all_filling(start: tuple[int, int, int]) -> None:
    assert (cut(ARRAY, start, (2, 2, 2), 5.0) == 5.0).all()


def test_the_middle_of_a_box_is_that_of_the_volume() -> None:
    assert centered_start((10, 4, 7), (4, 8, 7)) == (3, -2, 0)
