"""One case of a run on volumes as a picture: three planes around what is labeled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case
from medformer.errors import DataError
from medformer.imaging.geometry import Geometry
from medformer.imaging.planes import draw_planes
from medformer.imaging.volumes import read_labels, read_volume

LEGEND = (
    "Each picture shows a sagittal, a coronal and an axial plane, cut where the labels are largest and zoomed in on "
    "them. Lines are the prediction and transparent fills the reference, each label in its own color, named below the "
    "planes. Sagittal planes face left; on the others the patient's right is on the left."
)

SIDE = 250
"""Pixels along the longest edge of what is shown."""

_LEAST_SHARE = 3  # of the volume's edge that is always shown: one third


def draw_volume(case: Case, mask_path: Path, names: Mapping[int, str]) -> NDArray[np.uint8]:
    """Draw a case with its predicted label map and, if it has one, the reference.

    Args:
        case: Its first channel is drawn.
        mask_path: The predicted label map.
        names: Name of each label value in the order of the colors; without names, values are named by their numbers.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: A file is missing or damaged, or the sizes differ.
    """
    prediction = read_labels(mask_path)
    truth = None if case.mask is None else read_labels(case.mask).array
    maps = [prediction.array, *([] if truth is None else [truth])]
    image = read_volume(case.required_image(), nonfinite="keep").array
    if any(array.shape != image.shape for array in maps):
        raise DataError("the image and its label maps differ in size")
    if not names:
        names = {int(value): f"label {value}" for array in maps for value in np.unique(array) if value}
    box = _around(maps)
    gray = np.nan_to_num(image[box], posinf=0.0, neginf=0.0)
    return draw_planes(
        gray,
        prediction.array[box],
        _part(prediction.geometry, box),
        names,
        truth=None if truth is None else truth[box],
        side=SIDE,
    )


def _around(maps: Sequence[NDArray[Any]]) -> tuple[slice, ...]:
    """A box twice as wide as all labels, and no less than a third of the volume; the volume when nothing is labeled."""
    box = []
    for axis, length in enumerate(maps[0].shape):
        # One plane at a time: a mask of the whole volume would cost as much as the volume.
        filled = [index for index in range(length) if any(array.take(index, axis).any() for array in maps)]
        if not filled:
            return (slice(None),) * maps[0].ndim
        first, stop = filled[0], filled[-1] + 1
        width = min(length, max(2 * (stop - first), -(-length // _LEAST_SHARE)))
        start = min(max(0, (first + stop - width) // 2), length - width)
        box.append(slice(start, start + width))
    return tuple(box)


def _part(geometry: Geometry, box: Sequence[slice]) -> Geometry:
    """The grid of a part of a volume."""
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start or 0 for side in box]
    first, second, third = (len(range(*side.indices(length))) for side, length in zip(box, geometry.shape, strict=True))
    return Geometry((first, second, third), affine)
