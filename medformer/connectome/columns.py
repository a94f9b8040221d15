"""The meaning of each column of a feature matrix, for the steps of scikit-learn pipelines.

A feature matrix is (subjects, width): the blocks side by side, then one column per covariate. Every step of a pipeline
changes blocks and passes the covariates through, because a later step may need them (site, age, sex, motion).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from medformer.connectome.measures import MEASURES, triangle_size
from medformer.errors import ConfigError, DataError

# How a covariate is written as a number.
COVARIATES = {
    "site": "index into the names of the sites",
    "age": "years",
    "sex": "0 female, 1 male",
    "mean_fd": "mean framewise displacement, mm",
}


@dataclass(frozen=True)
class FeatureBlock:
    """The connections of one atlas under one measure.

    Attributes:
        atlas: Name of the atlas.
        measure: What a connection is; a name in `MEASURES`.
        regions: Number of regions.
    """

    atlas: str
    measure: str
    regions: int

    def __post_init__(self) -> None:
        MEASURES[self.measure]  # raises on an unknown name
        if self.regions < 2:
            raise ConfigError(f"Atlas {self.atlas} has {self.regions} region(s); expected at least 2.")

    @property
    def diagonal(self) -> bool:
        """Whether the block holds the diagonal of its matrix."""
        return MEASURES[self.measure].part.diagonal

    @property
    def size(self) -> int:
        """Number of columns."""
        return triangle_size(self.regions, self.diagonal)


@dataclass(frozen=True)
class Columns:
    """The layout of a feature matrix.

    Attributes:
        blocks: From left to right.
        covariates: The columns after the blocks; names in `COVARIATES`.
        sites: Names of the sites; column `site` holds indices into it.
    """

    blocks: tuple[FeatureBlock, ...]
    covariates: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        atlases = [block.atlas for block in self.blocks]
        if not atlases or len(set(atlases)) < len(atlases):
            raise ConfigError(f"Got blocks of {', '.join(atlases) or 'no atlas'}; expected one block per atlas.")
        unknown = [name for name in self.covariates if name not in COVARIATES]
        if unknown or len(set(self.covariates)) < len(self.covariates):
            raise ConfigError(
                f"Got covariates {', '.join(self.covariates)}; expected each once, out of {', '.join(COVARIATES)}."
            )
        if "site" in self.covariates and not self.sites:
            raise ConfigError("Got a column of sites without the sites' names; expected the names it is an index into.")

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases, from left to right."""
        return tuple(block.atlas for block in self.blocks)

    @property
    def regions(self) -> dict[str, int]:
        """Number of regions of each atlas."""
        return {block.atlas: block.regions for block in self.blocks}

    @property
    def diagonal(self) -> bool:
        """Whether the blocks hold the diagonals of their matrices."""
        return self.blocks[0].diagonal

    @property
    def edges(self) -> int:
        """Number of columns of all blocks."""
        return sum(block.size for block in self.blocks)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.edges + len(self.covariates)

    def block(self, atlas: str) -> FeatureBlock:
        """The block of an atlas.

        Raises:
            ConfigError: There is none.
        """
        for block in self.blocks:
            if block.atlas == atlas:
                return block
        raise ConfigError(f"There are no features of atlas '{atlas}'; there are of {', '.join(self.atlases)}.")

    def slice(self, atlas: str) -> slice:
        """The columns of an atlas.

        Raises:
            ConfigError: It has none.
        """
        wanted = self.block(atlas)
        start = sum(block.size for block in self.blocks[: self.blocks.index(wanted)])
        return slice(start, start + wanted.size)

    def covariate(self, name: str) -> int:
        """The column of a covariate in the whole matrix.

        Raises:
            ConfigError: It has none.
        """
        return self.edges + self.covariate_position(name)

    def covariate_position(self, name: str) -> int:
        """The position of a covariate among the covariates, which holds at every step of a pipeline.

        Raises:
            ConfigError: It has none.
        """
        if name not in self.covariates:
            raise ConfigError(
                f"There is no column '{name}'; there are {', '.join(self.covariates) or 'no covariates'}. Add it to "
                "the cohort's manifest, or leave it out of the features."
            )
        return self.covariates.index(name)


Matrix = NDArray[np.float64]


class BlockTransformer(TransformerMixin, BaseEstimator):
    """Maps (n, d + c) to (n, d' + c), where the last c columns are covariates and stay as they are.

    A subclass overrides `_apply`, and `_learn` if it learns. Estimators of other libraries that it keeps among what it
    learned are listed in `learned_parts` (see `medformer.connectome.estimator_file`).

    Args:
        columns: The layout, whose covariates say what the last columns are.

    Attributes:
        n_features_in_: d + c.
    """

    learned_parts: ClassVar[tuple[type, ...]] = ()
    columns: Columns
    n_features_in_: int

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def fit(self, X: Matrix, y: Any = None) -> Self:
        """Learn from training rows; labels are not used unless the class says so."""
        matrix = self._checked(X)
        self.n_features_in_ = matrix.shape[1]
        self._learn(*self._split(matrix), y)
        return self

    def transform(self, X: Matrix) -> Matrix:
        """Apply what was learned; a row's result depends on no other row."""
        block, covariates = self._split(self._like_fitted(X))
        return np.hstack([self._apply(block, covariates), covariates])

    def _like_fitted(self, X: Matrix) -> Matrix:
        """Rows that may be transformed."""
        check_is_fitted(self, "n_features_in_")
        matrix = self._checked(X)
        if matrix.shape[1] != self.n_features_in_:
            raise DataError(
                f"{type(self).__name__} got {matrix.shape[1]} columns; expected the {self.n_features_in_} that it was "
                "fitted on. Give the same atlases and covariates."
            )
        return matrix

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        """Learn from a block (n, d) and covariates (n, c); nothing by default."""

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        """The new block (n, d')."""
        return block

    def _checked(self, X: Matrix) -> Matrix:
        matrix = np.asarray(X, np.float64)
        if matrix.ndim != 2 or matrix.shape[1] <= len(self.columns.covariates):
            raise DataError(
                f"{type(self).__name__} got features of shape {matrix.shape}; expected (subjects, columns) with "
                f"connections before {len(self.columns.covariates)} covariate(s)."
            )
        return matrix

    def _split(self, matrix: Matrix) -> tuple[Matrix, Matrix]:
        end = matrix.shape[1] - len(self.columns.covariates)
        return matrix[:, :end], matrix[:, end:]

    def _covariate(self, covariates: Matrix, name: str) -> Matrix:
        """One covariate of all rows, shape (n,).

        Raises:
            ConfigError: There is no such column.
            DataError: A value is missing.
        """
        values = covariates[:, self.columns.covariate_position(name)]
        missing = np.count_nonzero(~np.isfinite(values))
        if missing:
            raise DataError(
                f"{type(self).__name__} needs '{name}', which {missing} of {len(values)} subjects lack. Fill the "
                "column of the cohort's manifest, leave those subjects out, or do without it."
            )
        return values

    def _sites(self, covariates: Matrix) -> NDArray[np.int64]:
        """The site of all rows, as whole numbers (n,).

        Raises:
            ConfigError: There is no column of sites.
            DataError: A value is no index into the sites' names.
        """
        values = self._covariate(covariates, "site")
        sites = values.astype(np.int64)
        wrong = (sites != values) | (sites < 0) | (sites >= len(self.columns.sites))
        if wrong.any():
            raise DataError(
                f"{type(self).__name__} got site {values[wrong][0]:g}; expected an index into the "
                f"{len(self.columns.sites)} names {', '.join(self.columns.sites)}."
            )
        return sites


class SelectAtlas(BlockTransformer):
    """Keeps the columns of one atlas, and the covariates.

    Args:
        columns: The layout of the whole matrix.
        atlas: Which atlas.
    """

    def __init__(self, columns: Columns, atlas: str) -> None:
        self.columns = columns
        self.atlas = atlas

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        if block.shape[1] != self.columns.edges:
            raise DataError(
                f"Got {block.shape[1]} columns of connections; expected {self.columns.edges}, those of "
                f"{', '.join(self.columns.atlases)} side by side."
            )
        return block[:, self.columns.slice(self.atlas)]


class WithoutCovariates(BlockTransformer):
    """Drops the covariates: a classifier after it sees connections alone.

    Args:
        columns: Says how many covariates there are.
    """

    def transform(self, X: Matrix) -> Matrix:
        return self._split(self._like_fitted(X))[0]
