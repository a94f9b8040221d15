"""Measures of the connection between two regions: their values for one subject, and the vectors they are kept as.

Symmetric matrices are kept as vectors of their upper triangles (`to_triangle`, `to_matrices`).

All measures but the square root are computed by nilearn's `ConnectivityMeasure`. `correlation` and `root` use Pearson's
correlations without shrinkage, because neither needs an inverse. All others start from the shrunk covariance of Ledoit
and Wolf (J Multivar Anal 2004): a scan is often shorter than the number of regions, and its plain covariance then has
no inverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.registry import Entry, Registry

Real = TypeVar("Real", bound=np.floating[Any])


def triangle_size(regions: int, diagonal: bool = False) -> int:
    """Numbers in the upper triangle of a matrix (regions, regions), with or without its diagonal."""
    return regions * (regions + 1 if diagonal else regions - 1) // 2


def triangle_regions(size: int, diagonal: bool = False) -> int:
    """The number of regions whose triangle holds `size` numbers.

    Raises:
        DataError: There is no such number.
    """
    root = math.isqrt(8 * size + 1)
    regions = (root - 1) // 2 if diagonal else (root + 1) // 2
    if size < 1 or triangle_size(regions, diagonal) != size:
        expected = "R(R + 1)/2 with the diagonal" if diagonal else "R(R - 1)/2 without the diagonal"
        raise DataError(f"Got vectors of {size} number(s); expected the triangle of a matrix (R, R): {expected}.")
    return regions


def to_triangle(matrices: NDArray[Real], diagonal: bool = False) -> NDArray[Real]:
    """Upper triangles (n, d) of matrices (n, R, R), row by row as `np.triu_indices` lists them.

    Args:
        matrices: Symmetric matrices; only the upper triangle is read.
        diagonal: Whether the diagonal comes along.

    Raises:
        DataError: The matrices are not square.
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise DataError(f"Got matrices of shape {matrices.shape}; expected (subjects, regions, regions).")
    rows, columns = np.triu_indices(matrices.shape[1], 0 if diagonal else 1)
    return matrices[:, rows, columns]


def to_matrices(triangles: NDArray[Real], regions: int, diagonal: bool = False) -> NDArray[Real]:
    """Symmetric matrices (n, R, R) of triangles (n, d); a triangle without diagonal gets ones there.

    Args:
        triangles: In the order of `to_triangle`.
        regions: R.
        diagonal: Whether the triangles hold the diagonal.

    Raises:
        DataError: The number of regions does not fit.
    """
    expected = triangle_size(regions, diagonal)
    if triangles.ndim != 2 or triangles.shape[1] != expected:
        raise DataError(
            f"Got triangles of shape {triangles.shape}; expected (subjects, {expected}), which is what {regions} "
            f"regions make {'with' if diagonal else 'without'} the diagonal."
        )
    matrices = np.ones((len(triangles), regions, regions), triangles.dtype)
    rows, columns = np.triu_indices(regions, 0 if diagonal else 1)
    matrices[:, rows, columns] = triangles
    matrices[:, columns, rows] = triangles
    return matrices


# Weight of the identity where only correlations are stored, so that the length of the scan, which the weight of Ledoit
# and Wolf depends on, is not known.
STORED_SHRINKAGE = 0.1

ROOT = "square root of correlation"
"""The one kind that nilearn does not compute."""

# A region whose signal varies by less than this share of its level is constant: smaller changes are rounding.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Connectivity:
    """How a measure is computed and stored.

    Attributes:
        kind: nilearn's name, or `ROOT`.
        diagonal: Whether the diagonal is kept: it varies between subjects.
        coefficient: Whether values are correlation coefficients, in [-1, 1], for which Fisher's z is meant.
        standardize: Whether every region's signal is scaled to unit variance first.
    """

    kind: str
    diagonal: bool = False
    coefficient: bool = False
    standardize: bool = True

    @property
    def shrunk(self) -> bool:
        """Whether it begins with a shrunk covariance, so that a series and its correlations give other values."""
        return self.kind not in ("correlation", ROOT)


MEASURES: Registry[Connectivity] = Registry(
    "connectivity measure",
    [
        Entry(
            "correlation", Connectivity("correlation", coefficient=True), "Pearson correlation of two regions' signals"
        ),
        Entry(
            "partial",
            Connectivity("partial correlation", coefficient=True),
            "correlation of two regions given all others, from the shrunk covariance",
            paper="Marrelec et al., NeuroImage 2006",
        ),
        Entry(
            "precision",
            Connectivity("precision", diagonal=True),
            "inverse of the shrunk covariance of standardized signals",
            paper="Varoquaux et al., NeurIPS 2010",
        ),
        Entry(
            "root",
            Connectivity(ROOT),
            "square root of the correlation matrix, in which strong patterns weigh less against weak ones",
            paper="Dryden, Koloydenko and Zhou, Ann Appl Stat 2009 (power Euclidean, 1/2)",
        ),
        Entry(
            "covariance",
            Connectivity("covariance", diagonal=True, standardize=False),
            "shrunk covariance in the signals' own units, so the scanner's gain is part of it",
            paper="Ledoit and Wolf, J Multivar Anal 2004",
        ),
        Entry(
            "tangent",
            # What is stored is the covariance; the space it is mapped into is learned within a fold.
            Connectivity("covariance", diagonal=True),
            "deviation from the training subjects' geometric mean covariance, learned within a fold",
            paper="Varoquaux et al., MICCAI 2010",
        ),
    ],
)


def constant_regions(series: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which regions (R,) of a series (T, R) do not vary."""
    values = np.asarray(series, np.float64)
    return np.asarray(values.std(axis=0) <= _CONSTANT * np.abs(values).max(axis=0))


def block_from_series(series: NDArray[np.floating[Any]], measure: str, *, case: str = "") -> NDArray[np.float32]:
    """Connections of one subject.

    A region that does not vary is left out of the computation: its connections are 0, never NaN, and its diagonal is 1
    (0 in a covariance), as for a region that is unrelated to all others.

    Args:
        series: Signal of each region, shape (T, R), any units.
        measure: A name in `MEASURES`.
        case: The subject, for errors.

    Returns:
        The upper triangle in the order of `to_triangle`, with the diagonal where the measure keeps it.

    Raises:
        DataError: Fewer than 2 time points or regions, or values that are not finite.
    """
    chosen = MEASURES[measure].part
    values = np.asarray(series, np.float64)
    subject = f" of {case}" if case else ""
    if values.ndim != 2 or min(values.shape) < 2:
        raise DataError(
            f"The series{subject} has shape {values.shape}; expected (time points, regions), at least 2 of each."
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"The series{subject} holds {np.count_nonzero(~np.isfinite(values))} value(s) that are NaN or infinite. "
            "Leave the subject out, or extract its series again."
        )
    varies = ~constant_regions(values)
    matrix = np.diag(np.where(varies | (measure != "covariance"), 1.0, 0.0))
    if varies.any():
        alive = values[:, varies] - values[:, varies].mean(axis=0)
        if chosen.standardize:
            alive /= alive.std(axis=0)
        matrix[np.ix_(varies, varies)] = _connectivity(alive, chosen.kind)
    return _triangle(matrix, chosen)


def block_from_correlation(edges: NDArray[np.floating[Any]], regions: int, measure: str) -> NDArray[np.float32]:
    """Connections of one subject from its correlations, where no series is stored.

    The correlations are the covariance of standardized signals. Correlation and its root use them as they are; for all
    other measures they are shrunk first: 0.9 times the matrix plus 0.1 times the identity (`STORED_SHRINKAGE`).

    Args:
        edges: Pearson correlations, shape (R(R - 1)/2,), in the order of `to_triangle`.
        regions: R.
        measure: A name in `MEASURES`.

    Raises:
        DataError: Their number does not fit, or they are not finite or outside [-1, 1].
    """
    chosen = MEASURES[measure].part
    values = np.asarray(edges, np.float64)
    matrix = to_matrices(values[None], regions)[0]
    # Half-precision files round beyond 1 by up to one part in a thousand.
    if not np.abs(values).max() <= 1.001:
        raise DataError(
            f"Got correlations between {values.min():g} and {values.max():g}; expected finite numbers in [-1, 1]. "
            "Store Pearson correlations, without Fisher's z."
        )
    matrix = matrix.clip(-1.0, 1.0)
    if chosen.kind == ROOT:
        matrix = _root(matrix)
    elif chosen.shrunk:
        matrix = (1 - STORED_SHRINKAGE) * matrix + STORED_SHRINKAGE * np.eye(regions)
        matrix = _connectivity(matrix, chosen.kind, stored=True)
    return _triangle(matrix, chosen)


def _connectivity(values: NDArray[np.float64], kind: str, stored: bool = False) -> NDArray[np.float64]:
    """One matrix of `kind`, from signals (T, R), or from a covariance (R, R) that is stored."""
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf

    from medformer.connectome.given_covariance import GivenCovariance

    if kind == ROOT:
        return _root(_connectivity(values, "correlation"))
    estimator: Any = LedoitWolf(store_precision=False)
    if stored:
        estimator = GivenCovariance()
    elif kind == "correlation":
        estimator = EmpiricalCovariance(store_precision=False)
    return np.asarray(ConnectivityMeasure(cov_estimator=estimator, kind=kind).fit_transform([values])[0])


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The positive square root of a symmetric matrix; what rounding made negative counts as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T)


def _triangle(matrix: NDArray[np.float64], measure: Connectivity) -> NDArray[np.float32]:
    if measure.coefficient:
        matrix = matrix.clip(-1.0, 1.0)
    return to_triangle(matrix[None], measure.diagonal)[0].astype(np.float32)
