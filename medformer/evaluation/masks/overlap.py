"""Dice and IoU of binary masks, with the empty-mask rule named instead of implied.

Two empty masks have no overlap to measure, and published code silently returns 1, 0 or NaN. Here each of
these rules has a name:

* `"one"` (default): a normal image that was left unmarked is a success, score 1.
* `"nan"`: such an image says nothing about overlap; it is left out of means.
* `"zero"`: the pessimistic reading, and what a plain "0 when nothing overlaps" computes.

When exactly one of the two masks is empty, every rule gives 0.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.errors import DataError, UnknownNameError

EmptyPolicy = Literal["one", "nan", "zero"]

EMPTY_POLICIES: dict[EmptyPolicy, str] = {
    "one": "both masks empty: 1; one of them empty: 0",
    "nan": "both masks empty: not a number, left out of means; one of them empty: 0",
    "zero": "both masks empty: 0; one of them empty: 0",
}

_BOTH_EMPTY: dict[EmptyPolicy, float] = {"one": 1.0, "nan": float("nan"), "zero": 0.0}


class Counts(NamedTuple):
    """How two masks overlap, in pixels or voxels.

    Attributes:
        both: Foreground in the prediction and in the truth.
        prediction: Foreground in the prediction.
        truth: Foreground in the truth.
        size: All elements of the image.
    """

    both: int
    prediction: int
    truth: int
    size: int

    def dice(self, empty: EmptyPolicy = "one") -> float:
        """2 |P and T| / (|P| + |T|)  (Dice, Ecology 1945)."""
        return _ratio(2 * self.both, self.prediction + self.truth, empty)

    def iou(self, empty: EmptyPolicy = "one") -> float:
        """|P and T| / |P or T|  (Jaccard index)."""
        return _ratio(self.both, self.prediction + self.truth - self.both, empty)

    def sensitivity(self) -> float:
        """|P and T| / |T|; NaN where the truth is empty, since there was nothing to find."""
        return self.both / self.truth if self.truth else float("nan")

    def precision(self) -> float:
        """|P and T| / |P|; NaN where the prediction is empty, since nothing was claimed."""
        return self.both / self.prediction if self.prediction else float("nan")


def count(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, case: str = "") -> Counts:
    """Count the overlap of two boolean masks.

    Args:
        prediction: Any shape: a signal, an image, a volume.
        truth: Same shape.
        case: Named in errors.

    Raises:
        DataError: Shapes differ, the masks hold no element, or an array is not boolean.
    """
    prediction = _mask(prediction, "prediction", case)
    truth = _mask(truth, "truth", case)
    if prediction.shape != truth.shape:
        raise DataError(
            f"{_prefix(case)}prediction has shape {prediction.shape}, truth has {truth.shape}; they must be equal. "
            "Bring the prediction back to the size of the original image first."
        )
    return Counts(
        both=int(np.count_nonzero(prediction & truth)),
        prediction=int(np.count_nonzero(prediction)),
        truth=int(np.count_nonzero(truth)),
        size=int(truth.size),
    )


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, empty: EmptyPolicy = "one") -> float:
    """Dice of two boolean masks of one shape (1-D, 2-D, 3-D); raises as `count`."""
    return count(prediction, truth).dice(empty)


def iou(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, empty: EmptyPolicy = "one") -> float:
    """Intersection over union of two boolean masks of one shape (1-D, 2-D, 3-D); raises as `count`."""
    return count(prediction, truth).iou(empty)


def union_box(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds the foreground of both masks; the whole image when there is none.

    What depends on the foreground alone is the same inside this box, and quicker to compute.
    """
    box: tuple[slice, ...] | None = ndimage.find_objects((prediction | truth).astype(np.uint8), max_label=1)[0]
    return (slice(None),) * truth.ndim if box is None else box


def check_policy(empty: str) -> EmptyPolicy:
    """Return a rule for empty masks.

    Raises:
        UnknownNameError: `empty` is not in `EMPTY_POLICIES`.
    """
    if empty not in EMPTY_POLICIES:
        raise UnknownNameError("empty-mask policy", empty, get_args(EmptyPolicy))
    return empty


def _ratio(numerator: int, denominator: int, empty: EmptyPolicy) -> float:
    check_policy(empty)
    return numerator / denominator if denominator else _BOTH_EMPTY[empty]


def _mask(array: NDArray[np.bool_], role: str, case: str) -> NDArray[np.bool_]:
    array = np.asarray(array)
    if array.dtype != np.bool_:
        nan = " with NaN in it" if array.dtype.kind == "f" and bool(np.isnan(array).any()) else ""
        raise DataError(
            f"{_prefix(case)}{role} is {array.dtype}{nan}, expected a boolean mask. "
            "Threshold probabilities first, for example `probability >= 0.5`."
        )
    if array.size == 0:
        raise DataError(f"{_prefix(case)}{role} has shape {array.shape}, which holds no pixel.")
    return array


def _prefix(case: str) -> str:
    return f"{case}: " if case else ""
