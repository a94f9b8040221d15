from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, reorient
from medformer.imaging.images import write_image
from medformer.imaging.planes import LABEL_COLORS, draw_planes

NAMES = {1: "Anterior", 5: "Posterior"}
RAS = Geometry((20, 30, 40), np.diag([1.0, 1.0, 2.0, 1.0]))


def head() -> tuple[np.ndarray, np.ndarray]:
    """A gray box whose right (high X), front (high Y) and top (high Z) corner holds label 5."""
    image = np.zeros(RAS.shape, np.float32)
    image[2:-2, 2:-2, 2:-2] = 100
    labels = np.zeros(RAS.shape, np.uint8)
    labels[14:19, 22:29, 30:39] = 5
    return image, labels


def colored(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == np.array(color)).all(-1))


def test_planes_show_the_patient_as_on_a_film() -> None:
    picture = draw_planes(*head(), RAS, NAMES, side=320)
    # At 4 pixels per mm: sagittal 120 x 320, coronal 80 x 320, axial 80 x 120 in the middle of its column.
    assert picture.shape[1] == 120 + 80 + 80 + 2 * 4
    spots = colored(picture[:320], LABEL_COLORS[1])
    sagittal = spots[spots[:, 1] < 120]
    coronal = spots[(spots[:, 1] >= 124) & (spots[:, 1] < 204)] - (0, 124)
    axial = spots[spots[:, 1] >= 208] - (100, 208)
    assert sagittal.max(0)[0] < 160 and sagittal.max(0)[1] < 60, "up is the head, left the front"
    assert coronal.max(0)[0] < 160 and coronal.max(0)[1] < 40, "left is the patient's right"
    assert axial.max(0)[0] < 60 and axial.max(0)[1] < 40, "up is the front"


@pytest.mark.parametrize("codes", ["LPI", "SAR", "PIL"])
def test_the_storage_order_does_not_show(codes: str) -> None:
    image, labels = head()
    turned, affine = reorient(image, RAS.affine, codes)
    other = reorient(labels, RAS.affine, codes)[0]
    geometry = Geometry((turned.shape[0], turned.shape[1], turned.shape[2]), affine)
    np.testing.assert_array_equal(
        draw_planes(turned, other, geometry, NAMES, side=80), draw_planes(image, labels, RAS, NAMES, side=80)
    )


def test_truth_is_a_tint_where_the_prediction_has_no_line() -> None:
    image, labels = head()
    plain = draw_planes(image, labels, RAS, NAMES, side=160)
    tinted = draw_planes(image, labels, RAS, NAMES, truth=labels, side=160)
    changed = (plain != tinted).any(-1)
    assert changed.any() and not changed[colored(plain, LABEL_COLORS[1])[0][0], colored(plain, LABEL_COLORS[1])[0][1]]
    only_truth = draw_planes(image, np.zeros_like(labels), RAS, NAMES, truth=labels, side=160)
    assert len(colored(only_truth[:160], LABEL_COLORS[1])) == 0
    assert (only_truth != draw_planes(image, np.zeros_like(labels), RAS, NAMES, side=160)).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 1, 7)])
def test_small_and_constant_volumes_are_drawn(shape: tuple[int, int, int], tmp_path: Path) -> None:
    geometry = Geometry(shape, np.eye(4))
    write_image(tmp_path / "a" / "b.png", draw_planes(np.full(shape, 3), np.zeros(shape, np.uint8), geometry, NAMES))
    with Image.open(tmp_path / "a" / "b.png") as picture:
        assert max(picture.size) >= 384 and picture.mode == "RGB"


def test_thick_slices_are_shown_one_by_one() -> None:
    """A short-axis scan: across its slices it is nine rows high."""
    geometry = Geometry((60, 50, 9), np.diag([1.5, 1.5, 10.0, 1.0]))
    labels = np.zeros(geometry.shape, np.uint8)
    for index in range(1, 8):
        labels[10 : 12 + 5 * index, 20:30, index] = 5
    picture = draw_planes(np.ones(geometry.shape), labels, geometry, NAMES, side=120)
    # Six slices of 120 x 100 pixels in two rows, and the legend.
    assert picture.shape[:2] == (2 * 100 + 4 + 18, 3 * 120 + 2 * 4)
    areas = [
        len(colored(picture[row : row + 100, left : left + 120], LABEL_COLORS[1]))
        for row in (0, 104)
        for left in (0, 124, 248)
    ]
    # Seven slices have labels, and grow; six of them are shown, the first and the last too.
    assert areas == sorted(areas) and min(areas) > 0 and len(set(areas)) >= 5
    isotropic = Geometry(geometry.shape, np.diag([1.5, 1.5, 4.4, 1.0]))
    assert draw_planes(np.ones(geometry.shape), labels, isotropic, NAMES, side=120).shape[0] == 100 + 18


def test_the_legend_names_what_can_be_seen() -> None:
    image, labels = head()
    many = {value: f"structure {value}" for value in range(1, 42)}
    picture = draw_planes(image, labels, RAS, many, side=320)
    assert picture.shape[0] == 320 + 18, "one line for the one label that is there"


def test_other_shapes_are_refused() -> None:
    image, labels = head()
    with pytest.raises(DataError, match=r"labels have shape \(19, 30, 40\)"):
        draw_planes(image, labels[1:], RAS, NAMES)
