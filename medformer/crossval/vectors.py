"""Feature vectors of cases by id, and as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import some
from medformer.data.cases import Case
from medformer.errors import DataError

Vector = NDArray[np.floating[Any]]
"""Features of a case, (d,)."""

Vectors = Mapping[str, Vector]
"""A feature vector per case id, all of one length; a mapping may compute them when asked."""


@dataclass(frozen=True)
class DescribedCases:
    """Cases with a vector each.

    Attributes:
        by_id: The cases.
        vectors: Theirs.
    """

    by_id: Mapping[str, Case]
    vectors: Vectors


def stack_features(features: Vectors, names: Sequence[str]) -> NDArray[np.float64]:
    """Put the vectors of some cases into a matrix (n, d).

    Raises:
        DataError: No cases, or one without a vector, with one of another length, or one that holds NaN or infinity.
    """
    if not names:
        raise DataError("A part of a fold is empty; expected cases to train on and cases to select a threshold on.")
    missing = [name for name in names if name not in features]
    if missing:
        raise DataError(f"There are no features for {some(missing)}; expected a vector for every case of the plan.")
    vectors = [np.asarray(features[name], np.float64) for name in names]
    for name, vector in zip(names, vectors, strict=True):
        if vector.ndim != 1 or vector.shape != vectors[0].shape:
            raise DataError(
                f"The features of {name} have shape {vector.shape}, those of {names[0]} {vectors[0].shape}; expected "
                "vectors of one length."
            )
        if not np.isfinite(vector).all():
            raise DataError(
                f"The features of {name} hold {np.count_nonzero(~np.isfinite(vector))} value(s) that are NaN or "
                "infinite. Leave the case out, or fill them before."
            )
    return np.stack(vectors)
