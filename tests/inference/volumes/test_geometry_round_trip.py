"""A file's own labels, shown to a network that only reads them, must come back as the identical file content."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from numpy.typing import NDArray

from medformer.imaging.geometry import Geometry, reorient
from medformer.imaging.nifti_labels import write_labels
from medformer.inference.volumes.segmenter import VolumeSegmenter

torch.set_num_threads(1)

CODES = sorted("".join(code) for order in permutations(("RL", "AP", "SI")) for code in product(*order))

SHAPE = (7, 10, 13)


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (other for other in range(3) if other != axis)
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def placed(
    codes: str, spacing: tuple[float, float, float], degrees: tuple[float, float, float] = (0, 0, 0)
) -> NDArray[np.float64]:
    """An affine whose array axes point along `codes`, then rotated by some degrees about each axis."""
    straight = inv_ornt_aff(axcodes2ornt(codes), SHAPE)
    affine = np.eye(4)
    directions = np.linalg.inv(straight[:3, :3])
    affine[:3, :3] = rotation(degrees) @ directions @ np.diag(spacing)
    affine[:3, 3] = (-31.25, 17.5, 104.0)
    return affine


KINDS = {
    "orthogonal": {"spacing": (1.0, 1.0, 1.0)},
    "anisotropic": {"spacing": (0.7, 1.1, 5.0)},
    "oblique": {"spacing": (0.9, 0.9, 1.2), "degrees": (12.0, -7.0, 31.0)},
    "half-way oblique": {"spacing": (1.0, 2.0, 3.0), "degrees": (0.0, 0.0, 45.0)},
}


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_come_back_as_they_are(oracle: ModuleType, tmp_path: Path, codes: str, kind: str) -> None:
    affine = placed(codes, **KINDS[kind])  # type: ignore[arg-type]
    labels = oracle.labeled(SHAPE, seed=len(codes))
    path = oracle.write_image(tmp_path / "image.nii.gz", labels, affine, qform=2, sform=4)
    check(oracle, path, labels, tmp_path)


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (3, 1)])
@pytest.mark.parametrize("negated", list(product((1, -1), repeat=3)))
def test_negated_cosines_and_every_way_to_place_a_file(
    oracle: ModuleType, tmp_path: Path, negated: tuple[int, int, int], qform: int, sform: int
) -> None:
    affine = placed("PIR", (0.8, 1.6, 2.4), (5.0, 10.0, -15.0))
    affine[:3, :3] *= negated
    labels = oracle.labeled(SHAPE, seed=1)
    path = oracle.write_image(tmp_path / "image.nii.gz", labels, affine, qform=qform, sform=sform)
    check(oracle, path, labels, tmp_path)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR"])
def test_whatever_the_network_sees(oracle: ModuleType, tmp_path: Path, orientation: str) -> None:
    labels = oracle.labeled(SHAPE, seed=2)
    path = oracle.write_image(tmp_path / "image.nii.gz", labels, placed("ILA", (1.0, 2.0, 3.0), (3.0, 4.0, 5.0)))
    check(oracle, path, labels, tmp_path, orientation)


def check(oracle: ModuleType, path: Path, labels: NDArray[np.uint8], folder: Path, orientation: str = "RAS") -> None:
    image = nibabel.load(path)
    spacing = Geometry(SHAPE, reorient(labels, image.affine, orientation)[1]).spacing
    segmenter = VolumeSegmenter(
        [(oracle.Oracle(), oracle.plan(spacing=spacing, orientation=orientation, patch=(6, 8, 8)))]
    )
    result = segmenter.segment(path)
    write_labels(folder / "labels.nii.gz", result.array, path)
    written = nibabel.load(folder / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    np.testing.assert_array_equal(written.affine, image.affine)
    assert written.get_data_dtype() == np.uint8
    for name in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "srow_x", "srow_y", "srow_z"):
        assert written.header[name].tobytes() == image.header[name].tobytes(), name
