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


def test_other_shapes_are_refused() -> None:
    image, labels = head()
    with pytest.raises(DataError, match=r"labels have shape \(19, 30, 40\)"):
        draw_planes(image, labels[1:], RAS, NAMES)
