"""How far two outlines lie apart: HD95 and normalized surface Dice, in pixels or millimeters, 2-D and 3-D alike.

The outline of a mask is its foreground that touches background across an edge (2-D) or a face (3-D); foreground on
the rim of the image touches what lies outside. Distances go from each point of one outline to the nearest point of
the other, between the centers of pixels or voxels, in units of `spacing`, along axes that need not be at right angles.

* HD95: the 95th percentile of these distances (linear between values), from prediction to reference and back; the
  larger of the two (Huttenlocher et al., PAMI 1993, with the percentile that makes it robust to single points).
* NSD: of all points of both outlines, the share that lies within a tolerance of the other outline (Nikolov et al.,
  J. Med. Internet Res. 2021). Every point counts alike, whatever piece of surface it stands for.

Both follow the definitions of MONAI, which the tests compare with. Its functions are not called here, because each
of them computes the same distances anew in single precision, and importing them takes several seconds.

An empty mask has no outline. The rules for it have the same names as those for overlap (`SURFACE_POLICIES`). When
exactly one mask is empty, the distance is the diagonal of the image and not a missing value: otherwise a method that
marks nothing on its hard cases would leave them out of its mean (Metrics Reloaded, Maier-Hein et al., Nature Methods
2024: missing values get the worst value, for a distance the largest one in the image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.evaluation.masks.overlap import EmptyPolicy, check_policy, count, union_box

Unit = Literal["px", "mm"]

TOLERANCES: dict[Unit, float] = {"px": 3.0, "mm": 2.0}
"""Tolerances of the NSD unless another is given; how far readers of the same data differ gives a better one."""

SURFACE_POLICIES: dict[EmptyPolicy, str] = {
    "one": "both masks empty: HD95 0, NSD 1; one of them empty: HD95 is the diagonal of the image, NSD 0",
    "nan": "both masks empty: not a number, left out of means; one of them empty: HD95 is the diagonal of the image, "
    "NSD 0",
    "zero": "both masks empty, or one of them: HD95 is the diagonal of the image, NSD 0",
}

Spacing = Sequence[float] | NDArray[np.float64]
"""Distance of neighboring elements along each axis; of axes that are not at right angles, the vectors from one element
to the next as columns of a square matrix."""

_PERCENTILE = 95.0

# A distance that equals the tolerance must not miss it by rounding, as 3 x 0.1 mm > 0.3 mm does.
_ROUNDING = 1 + 1e-9


class SurfaceScores(NamedTuple):
    """How two outlines agree.

    Attributes:
        hd95: In units of the spacing, lower is better.
        nsd: Between 0 and 1, higher is better.
    """

    hd95: float
    nsd: float


def surface_scores(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    spacing: Spacing | None = None,
    tolerance: float | None = None,
    empty: EmptyPolicy = "one",
    case: str = "",
    shape: Sequence[int] | None = None,
) -> SurfaceScores:
    """Score the outline of a mask.

    Args:
        prediction: Boolean mask, (H, W) or (D, H, W) or any other number of axes.
        truth: Same shape.
        spacing: Of the elements, in mm (see `Spacing`); without it, one pixel along each axis.
        tolerance: Of the NSD, in the same unit; `TOLERANCES` unless given.
        empty: The rule for empty masks (`SURFACE_POLICIES`).
        case: Named in errors.
        shape: Of the whole image, where the masks are a part of it that holds all of their foreground: the diagonal is
            the whole image's.

    Raises:
        DataError: The masks are no boolean arrays of one shape.
        UnknownNameError: `empty` is no known policy.
        ValueError: The spacing does not fit the axes, or spacing or tolerance is not a finite number in its range.
    """
    check_policy(empty)
    counts = count(prediction, truth, case=case)
    steps = check_spacing(spacing, truth.ndim)
    if tolerance is None:
        tolerance = TOLERANCES["px" if spacing is None else "mm"]
    if not (math.isfinite(tolerance) and tolerance >= 0.0):
        raise ValueError(f"a tolerance must be finite and not negative, got {tolerance}")
    sides = truth.shape if shape is None else shape
    worst = SurfaceScores(_diagonal(sides, steps), 0.0)
    if not counts.prediction and not counts.truth:
        both_empty = {"one": SurfaceScores(0.0, 1.0), "nan": SurfaceScores(math.nan, math.nan), "zero": worst}
        return both_empty[empty]
    if not counts.prediction or not counts.truth:
        return worst
    forth, back = surface_distances(prediction, truth, spacing=steps)
    hd95 = max(float(np.percentile(distances, _PERCENTILE)) for distances in (forth, back))
    close = sum(int(np.count_nonzero(distances <= tolerance * _ROUNDING)) for distances in (forth, back))
    return SurfaceScores(hd95, close / (len(forth) + len(back)))


def surface_distances(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, spacing: Spacing | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure from each point of either outline to the nearest point of the other.

    Args:
        prediction: Boolean mask with foreground.
        truth: Same shape, with foreground.
        spacing: As in `surface_scores`.

    Returns:
        Distances from the prediction's outline, shape (p,), and from the reference's, shape (t,).
    """
    # Here, since predicting scores nothing and this takes a while to import.
    from scipy.spatial import KDTree

    steps = check_spacing(spacing, truth.ndim)
    box = union_box(prediction, truth)
    outlines = (_outline(mask[box]) for mask in (prediction, truth))
    first, second = (points * steps if steps.ndim == 1 else points @ steps.T for points in outlines)
    return KDTree(second).query(first)[0], KDTree(first).query(second)[0]


def check_spacing(spacing: Spacing | None, axes: int) -> NDArray[np.float64]:
    """One positive number per axis, (axes,), or a vector per axis, (axes, axes); without a spacing, 1 each.

    Raises:
        ValueError: Another number of them, or one that is not finite and positive, or vectors without a volume.
    """
    steps = np.ones(axes) if spacing is None else np.asarray(spacing, dtype=np.float64)
    numbers = steps.shape == (axes,) and bool((steps > 0.0).all())
    vectors = steps.shape == (axes, axes) and bool(np.linalg.det(steps) != 0.0)
    if not np.isfinite(steps).all() or not (numbers or vectors):
        raise ValueError(f"a spacing must have {axes} finite positive numbers, one per axis, got {spacing}")
    return steps


def _diagonal(sides: Sequence[int], steps: NDArray[np.float64]) -> float:
    """The longest diagonal of the image."""
    if steps.ndim == 1:
        return math.hypot(*(n * float(step) for n, step in zip(sides, steps, strict=True)))
    ends = (np.array(signs) * sides @ steps.T for signs in product((1, -1), repeat=len(sides)))
    return max(float(np.linalg.norm(end)) for end in ends)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Coordinates of the outline's points, shape (points, axes)."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(np.float64)
