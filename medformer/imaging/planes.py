"""A picture of a volume with its labels: three planes through it, or the slices of a scan that has thick ones.

The volume is turned so that up is the head (axial: the front) and the patient's right is on the left of the picture, as
radiologists hold films; sagittal planes face left. Pixels are square in mm. A line is a prediction, a tint the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, reorient

LABEL_COLORS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""Of the first label, the second, ...; then again. Okabe and Ito (2008), distinguishable with any color vision."""

SIDE = 384
"""Pixels along the longest edge of the volume."""

_THICK = 3.0  # times the pixel: across slices as thick as this, a scan is a band of a few rows

_SLICES = 6
_ACROSS = 3

_TINT = 0.4
_GAP = 4
_LEGEND = 18
_DARK = (0, 0, 0)


def draw_planes(
    image: NDArray[Any],
    labels: NDArray[Any],
    geometry: Geometry,
    names: Mapping[int, str],
    *,
    truth: NDArray[Any] | None = None,
    side: int = SIDE,
) -> NDArray[np.uint8]:
    """Draw a sagittal, a coronal and an axial plane side by side, each where the labels are largest.

    Of a scan with thick slices (`thick_axis`), up to six slices are drawn instead, spread over those with labels. The
    gray scale runs from the 1st to the 99th percentile of what is shown.

    Args:
        image: (X, Y, Z), any numeric type.
        labels: Predicted label values (X, Y, Z).
        geometry: Of all arrays.
        names: Name of each label value that is drawn, in the order of `LABEL_COLORS`.
        truth: True label values (X, Y, Z).
        side: Pixels along the longest edge of the volume, or of a slice.

    Returns:
        uint8 (H, W, 3), with the names of the labels that can be seen below.

    Raises:
        DataError: The shapes differ.
    """
    for what, array in (("labels", labels), ("truth", truth)):
        if array is not None and array.shape != image.shape:
            raise DataError(f"The {what} have shape {array.shape}, the image {image.shape}; expected the same.")
    turned, affine = reorient(image, geometry.affine, "RAS")
    predicted = reorient(labels, geometry.affine, "RAS")[0]
    true = None if truth is None else reorient(truth, geometry.affine, "RAS")[0]
    maps = [predicted, *([] if true is None else [true])]
    extent = np.array(turned.shape) * np.linalg.norm(affine[:3, :3], axis=0)
    across = thick_axis(affine)
    if across is None:
        scale = side / float(extent.max())
        where = list(enumerate(_largest_planes(predicted if true is None or predicted.any() else true)))
    else:
        scale = side / float(np.delete(extent, across).max())
        where = [(across, index) for index in _labeled_slices(maps, across)]
    slices = [_plane(turned, axis, index).astype(np.float32) for axis, index in where]
    low, high = np.percentile(np.concatenate([plane.ravel() for plane in slices]), (1, 99))
    panels = []
    for (axis, index), plane in zip(where, slices, strict=True):
        height, width = (max(1, round(scale * float(mm))) for mm in np.delete(extent, axis)[::-1])
        gray = np.clip((plane - low) / max(float(high - low), 1e-12), 0, 1) * 255
        picture = Image.fromarray(_upright(gray.astype(np.uint8))).resize((width, height), Image.Resampling.BILINEAR)
        drawn = np.repeat(np.asarray(picture)[..., None], 3, axis=2)
        if true is not None:
            _tint(drawn, _enlarged(_plane(true, axis, index), height, width), names)
        _outline(drawn, _enlarged(_plane(predicted, axis, index), height, width), names)
        panels.append(drawn)
    there = np.unique(np.concatenate([np.unique(_plane(labels, *at)) for labels in maps for at in where]))
    shown = {value: name for value, name in names.items() if value in there}
    rows = [_beside(panels[first : first + _ACROSS]) for first in range(0, len(panels), _ACROSS)]
    return _with_legend(_below(rows), names, shown)


def thick_axis(affine: NDArray[np.float64]) -> int | None:
    """The axis along which slices are at least three times as thick as pixels are wide; None without one."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axis = int(spacing.argmax())
    return axis if spacing[axis] >= _THICK * float(np.delete(spacing, axis).max()) else None


def _labeled_slices(maps: Sequence[NDArray[Any]], axis: int) -> list[int]:
    """A few slices, evenly spread over those with labels; over all where there are no labels."""
    count = maps[0].shape[axis]
    labeled = [index for index in range(count) if any(_plane(labels, axis, index).any() for labels in maps)]
    known = labeled or list(range(count))
    places = np.linspace(0, len(known) - 1, min(_SLICES, len(known))).round().astype(int)
    return [known[place] for place in places]


def _largest_planes(labels: NDArray[Any]) -> tuple[int, int, int]:
    """For each axis the plane with the most labeled voxels, the middle one without any."""
    counts = [np.zeros(size, np.int64) for size in labels.shape]
    for index in range(labels.shape[2]):
        plane = labels[:, :, index] != 0
        counts[0] += plane.sum(1)
        counts[1] += plane.sum(0)
        counts[2][index] = np.count_nonzero(plane)
    first, second, third = (int(count.argmax()) if count.any() else len(count) // 2 for count in counts)
    return first, second, third


def _plane(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """A view: `take` would first copy the whole of a turned volume."""
    view: NDArray[Any] = array[(slice(None),) * axis + (index,)]
    return view


def _upright(plane: NDArray[Any]) -> NDArray[Any]:
    """From two RAS axes, each growing, to rows from the top and columns from the left."""
    return np.ascontiguousarray(plane.T[::-1, ::-1])


def _enlarged(plane: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    upright = _upright(plane)
    rows = (np.arange(height) * upright.shape[0]) // height
    columns = (np.arange(width) * upright.shape[1]) // width
    return upright[np.ix_(rows, columns)]


def _tint(picture: NDArray[np.uint8], labels: NDArray[Any], names: Mapping[int, str]) -> None:
    for value, color in _colors(names).items():
        area = labels == value
        picture[area] = ((1 - _TINT) * picture[area] + _TINT * np.array(color)).astype(np.uint8)


def _outline(picture: NDArray[np.uint8], labels: NDArray[Any], names: Mapping[int, str]) -> None:
    """A line just inside of each label, with a dark rim towards what has none."""
    square = np.ones((3, 3), dtype=bool)
    labeled = labels != 0
    picture[ndimage.binary_dilation(labeled, square) & ~labeled] = _DARK
    for value, color in _colors(names).items():
        area = labels == value
        picture[area & ~ndimage.binary_erosion(area, square, iterations=2, border_value=1)] = color


def _colors(names: Mapping[int, str]) -> dict[int, tuple[int, int, int]]:
    return {value: LABEL_COLORS[index % len(LABEL_COLORS)] for index, value in enumerate(names)}


def _beside(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + _GAP * (len(panels) - 1)
    canvas = np.zeros((height, width, 3), np.uint8)
    left = 0
    for panel in panels:
        top = (height - panel.shape[0]) // 2
        canvas[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + _GAP
    return canvas


def _below(rows: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    width = max(row.shape[1] for row in rows)
    canvas = np.zeros((sum(row.shape[0] for row in rows) + _GAP * (len(rows) - 1), width, 3), np.uint8)
    top = 0
    for row in rows:
        canvas[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP
    return canvas


def _with_legend(picture: NDArray[np.uint8], names: Mapping[int, str], shown: Mapping[int, str]) -> NDArray[np.uint8]:
    """Add rows that name the colors of the labels that are shown, as many as they need."""
    entries, left, top = [], _GAP, 0
    for value, color in _colors(names).items():
        if value not in shown:
            continue
        width = _LEGEND + int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(names[value])) + 2 * _GAP
        if left > _GAP and left + width > picture.shape[1]:
            left, top = _GAP, top + _LEGEND
        entries.append((left, top, color, names[value]))
        left += width
    strip = Image.new("RGB", (picture.shape[1], top + _LEGEND))
    draw = ImageDraw.Draw(strip)
    for left, top, color, name in entries:
        draw.rectangle((left, top + 4, left + 10, top + 14), fill=color)
        draw.text((left + _LEGEND, top + 3), name, fill=(255, 255, 255))
    return np.concatenate([picture, np.asarray(strip)])
