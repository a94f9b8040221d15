"""One segmented volume with any number of labels as one row of numbers: per label, and their means.

Columns of one label are named `<metric>:<label name>`. The plain columns (`dice`, `hd95_mm`, ...) are means over the
labels of the volume, so that each label weighs the same whatever its size; a label whose number is not defined, such as
the sensitivity of one that the reference does not have, is left out of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.errors import DataError
from medformer.evaluation.masks.overlap import Counts, EmptyPolicy, check_policy
from medformer.evaluation.masks.surface import TOLERANCES, Spacing, check_spacing, surface_scores
from medformer.evaluation.metrics import LABEL_MAPS
from medformer.evaluation.table import Row

_MM3_PER_ML = 1000.0

MEAN_OVER_LABELS = "mean over the labels of a volume, each of the same weight"
"""What the columns without a label's name hold."""


def label_column(name: str, label: str) -> str:
    """The column that holds a number of one label."""
    return f"{name}:{label}"


def label_names(rows: Sequence[Row]) -> list[str]:
    """The labels that a table has columns for, in their order; none for a table of another kind."""
    prefix = label_column("dice", "")
    return [str(column).removeprefix(prefix) for column in rows[0] if str(column).startswith(prefix)]


def volume_row(
    case: str,
    prediction: NDArray[np.integer],
    truth: NDArray[np.integer],
    *,
    labels: Mapping[int, str],
    spacing: Spacing,
    empty: EmptyPolicy = "one",
    tolerance: float = TOLERANCES["mm"],
    voxel_ml: float | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Score the label map of one volume.

    Each label's outlines are measured inside the smallest box that holds it in both maps. That changes no number:
    distances depend on the label's voxels alone, and what lies outside of the box is background.

    Args:
        case: The id.
        prediction: Integer label values, shape (X, Y, Z), 0 for background.
        truth: The same, of the reference.
        labels: Value and name of every label that the maps may hold.
        spacing: Distance of neighboring voxels along each axis of the arrays, in mm; of a sheared grid, the vectors
            from voxel to voxel as columns (`Geometry.steps`).
        empty: What overlap and outlines score where neither map has a label.
        tolerance: Of the NSD, in mm.
        voxel_ml: Volume of a voxel in ml; that of the cell that the spacing spans unless given.
        regions: Values of each region, which may overlap; where they are given, each is scored in the place of labels.

    Returns:
        `id`, `empty_policy`, `nsd_tolerance_mm`, `voxels` (of the volume), `truth_px` and `pred_px` (voxels with any
        label), the means over labels of the metrics in `LABEL_MAPS`, and for each label its metrics and its volume in
        the reference (`truth_ml:<name>`) and in the prediction (`pred_ml:<name>`), in milliliters.

    Raises:
        DataError: The maps differ in shape, are not three-dimensional arrays of integers, or hold an undeclared value.
        UnknownNameError: `empty` is no known policy.
        ValueError: No labels, a label that is not above 0 or shares its name, or a spacing that does not fit.
    """
    values = _check_labels(labels)
    check_policy(empty)
    _check_maps(case, prediction, truth)
    steps = check_spacing(spacing, truth.ndim)
    if voxel_ml is None:
        voxel_ml = float(np.prod(steps) if steps.ndim == 1 else abs(np.linalg.det(steps))) / _MM3_PER_ML
    found, known, table = _classes(case, prediction, truth, values)
    boxes = [ndimage.find_objects(classes, max_label=len(values)) for classes in (found, known)]
    by_label: dict[str, dict[str, float]] = {}
    scored = regions or {labels[value]: (value,) for value in values}
    for name, members in scored.items():
        places = [values.index(value) for value in members]
        counts = _label_counts(table, [place + 1 for place in places])
        box = _joint_box([boxes[side][place] for side in (0, 1) for place in places], truth.ndim)
        part = np.zeros(len(values) + 1, np.bool_)
        part[[place + 1 for place in places]] = True
        outline = surface_scores(
            part[found[box]],
            part[known[box]],
            spacing=steps,
            tolerance=tolerance,
            empty=empty,
            case=case,
            shape=truth.shape,
        )
        by_label[name] = {
            "dice": counts.dice(empty),
            "iou": counts.iou(empty),
            "sensitivity": counts.sensitivity(),
            "precision": counts.precision(),
            "hd95_mm": outline.hd95,
            "nsd_mm": outline.nsd,
            "truth_ml": counts.truth * voxel_ml,
            "pred_ml": counts.prediction * voxel_ml,
        }
    return {
        "id": case,
        "empty_policy": empty,
        "nsd_tolerance_mm": float(tolerance),
        "voxels": int(truth.size),
        "truth_px": int(table[1:].sum()),
        "pred_px": int(table[:, 1:].sum()),
        **{name: _mean([numbers[name] for numbers in by_label.values()]) for name in LABEL_MAPS},
        **{label_column(name, label): value for label, of in by_label.items() for name, value in of.items()},
    }


def _check_labels(labels: Mapping[int, str]) -> list[int]:
    """The values in ascending order."""
    if not labels or min(labels) < 1 or len(set(labels.values())) < len(labels) or "" in labels.values():
        raise ValueError(f"labels must be values above 0 with different names, got {dict(labels)}")
    return sorted(labels)


def _check_maps(case: str, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
    for role, array in (("prediction", prediction), ("reference", truth)):
        if array.dtype.kind not in "iu" or array.ndim != 3 or not array.size:
            raise DataError(
                f"{case}: the {role} is {array.dtype} of shape {array.shape}, expected integer label values (X, Y, Z)."
            )
    if prediction.shape != truth.shape:
        raise DataError(
            f"{case}: the prediction has shape {prediction.shape}, the reference {truth.shape}; they must be equal. "
            "Bring the prediction back to the grid of the original volume first."
        )


def _classes(
    case: str, prediction: NDArray[np.integer], truth: NDArray[np.integer], values: Sequence[int]
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Number the labels from 1, and count the voxels of every pair (reference, prediction), plane by plane."""
    known = np.array([0, *values], np.int64)
    dtype = np.min_scalar_type(len(values))
    numbered = [np.empty(truth.shape, dtype), np.empty(truth.shape, dtype)]
    table = np.zeros(len(known) ** 2, np.int64)
    for index in range(truth.shape[0]):
        planes: list[NDArray[np.intp]] = []
        for role, array in (("prediction", prediction), ("reference", truth)):
            plane = array[index]
            place = np.minimum(np.searchsorted(known, plane), len(known) - 1)
            odd = known[place] != plane
            if odd.any():
                raise DataError(
                    f"{case}: the {role} holds the value {int(plane[odd][0])}, expected 0 or a declared label "
                    f"({', '.join(str(value) for value in values)}). Declare it, or correct the label map."
                )
            planes.append(place)
        numbered[0][index], numbered[1][index] = planes
        table += np.bincount((planes[1] * len(known) + planes[0]).ravel(), minlength=len(table))
    return numbered[0], numbered[1], table.reshape(len(known), len(known))


def _label_counts(table: NDArray[np.int64], members: Sequence[int]) -> Counts:
    return Counts(
        both=int(table[np.ix_(members, members)].sum()),
        prediction=int(table[:, members].sum()),
        truth=int(table[members].sum()),
        size=int(table.sum()),
    )


def _joint_box(given: Sequence[tuple[slice, ...] | None], axes: int) -> tuple[slice, ...]:
    """The smallest box around boxes; one voxel when there is none."""
    boxes = [box for box in given if box is not None]
    if not boxes:
        return (slice(0, 1),) * axes
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
