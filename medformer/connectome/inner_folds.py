"""Stratified folds inside a training part, as many as its smaller class allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from medformer.errors import DataError


class InnerFolds:
    """A scikit-learn splitter; the same rows are always dealt the same way.

    Args:
        most: Number of folds where every class has that many rows; fewer otherwise.
        seed: Of the shuffle.
    """

    def __init__(self, most: int = 5, seed: int = 0) -> None:
        self.most = most
        self.seed = seed

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds; the most there can be where no labels are given.

        Raises:
            DataError: A class has one row, so a fold would have to train without it.
        """
        if y is None:
            return self.most
        classes, counts = np.unique(y, return_counts=True)
        if len(classes) < 2 or counts.min() < 2:
            found = ", ".join(f"{count} of class {name}" for name, count in zip(classes, counts, strict=True))
            raise DataError(f"The training part has {found}; expected at least 2 subjects of each of two classes.")
        return int(min(self.most, counts.min()))

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows to train on and rows to test on, for each fold."""
        folds = StratifiedKFold(self.get_n_splits(X, y), shuffle=True, random_state=self.seed)
        yield from folds.split(X, y)
