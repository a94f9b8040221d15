"""Which subjects of a cohort are kept: limits, and what is done with data that are damaged or poor.

Every subject that is left out is listed with the reason; subjects that are kept in spite of a warning are counted too:

* A region that does not vary has no correlations; they are 0. Subjects with more than a share of such regions are left
  out. The limit is on any one atlas.
* A series that is not longer than the number of regions is kept: correlations do not need more, and measures that
  invert a covariance shrink it first. Below `FEWEST_TIME_POINTS` there are no correlations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.atlases import require_regions
from medformer.connectome.measures import constant_regions, to_matrices
from medformer.data.connectomes.read.source import Candidate, SubjectData, UnusableError
from medformer.data.connectomes.store import Content
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.missing import known

# Correlations of 2 time points are 1 and -1; the standard error of Fisher's z, 1 / sqrt(T - 3), is defined from 4 on.
FEWEST_TIME_POINTS = 4

_SMOOTHER = 0.4


@dataclass(frozen=True)
class Limits:
    """What a subject must meet to be kept.

    Attributes:
        usable_only: Leave out subjects that did not pass the quality control. None: where the table says so.
        max_mean_fd: Largest mean framewise displacement, mm; a subject without one is left out. None: any.
        min_time_points: Shortest scan; where the length is not known the subject is left out. 0: any.
        max_constant_regions: Largest share of an atlas's regions that may not vary.
    """

    usable_only: bool | None = None
    max_mean_fd: float | None = None
    min_time_points: int = 0
    max_constant_regions: float = 0.2


def reject_candidate(candidate: Candidate, limits: Limits) -> Problem | None:
    """Why a candidate is left out before its data are read; None when it is not."""
    subject = candidate.subject

    def rejected(reason: str, detail: str) -> Problem:
        return Problem(subject.id, "", reason, detail)

    if limits.usable_only is not False and candidate.usable is False:
        return rejected("not-usable", "")
    if limits.usable_only and candidate.usable is None:
        return rejected("not-usable", "the table has no verdict of the quality control")
    if limits.max_mean_fd is not None:
        text = known(subject.covariates.get("mean_fd", ""))
        if not text:
            return rejected("motion", f"how much is not known; the limit is {limits.max_mean_fd:g} mm")
        if float(text) > limits.max_mean_fd:
            return rejected("motion", f"{float(text):.3f} mm; the limit is {limits.max_mean_fd:g} mm")
    if candidate.time_points is not None and candidate.time_points < limits.min_time_points:
        return rejected("short-scan", f"{candidate.time_points} time points; the limit is {limits.min_time_points}")
    return None


def require_sound(
    data: SubjectData, content: Content, atlases: Sequence[str], candidate: Candidate, limits: Limits
) -> None:
    """Check one subject's data.

    Raises:
        UnusableError: An atlas is missing, a number of regions is wrong, values are not finite, series differ in
            length or are too short, or too many regions do not vary.
    """
    missing = [atlas for atlas in atlases if atlas not in data.values]
    if not data.values:
        raise UnusableError("no-data", f"no file of {', '.join(missing)}")
    if missing:
        raise UnusableError("missing-atlas", f"no {', '.join(missing)}; found {', '.join(data.values) or 'none'}")
    for atlas in atlases:
        try:
            require_regions(atlas, data.regions[atlas])
        except DataError as error:
            raise UnusableError("region-count", str(error), data.files.get(atlas, "")) from None
        bad = int(np.count_nonzero(~np.isfinite(data.values[atlas])))
        if bad:
            detail = f"{bad} of {data.values[atlas].size} values of {atlas}"
            raise UnusableError("not-finite", detail, data.files.get(atlas, ""))
    lengths = {atlas: len(data.values[atlas]) for atlas in atlases} if content == "series" else {}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{atlas} {length}" for atlas, length in lengths.items())
        raise UnusableError("unequal-lengths", f"time points: {text}")
    length = next(iter(lengths.values()), candidate.time_points)
    if lengths and length is not None and length < FEWEST_TIME_POINTS:
        raise UnusableError(
            "short-scan", f"{length} time points; {FEWEST_TIME_POINTS} are the fewest that show a correlation"
        )
    if limits.min_time_points and (length is None or length < limits.min_time_points):
        found = "an unknown number of" if length is None else length
        raise UnusableError("short-scan", f"{found} time points; the limit is {limits.min_time_points}")
    for atlas, still in constant_by_atlas(data.values, data.regions, content).items():
        share = still.mean()
        if share > limits.max_constant_regions or still.all():
            detail = f"{still.sum()} of {still.size} regions of {atlas}; the limit is {limits.max_constant_regions:.0%}"
            raise UnusableError("too-constant", detail, data.files.get(atlas, ""))


def _seems_transposed(series: NDArray[Any]) -> bool:
    """Whether rows of a series (T, R) look like regions.

    A signal is smooth in time, and levels of regions differ. So steps along the rows are far smaller than those down
    the columns where rows are regions; else only where one signal moves all regions, as before confounds are removed.
    """
    if min(series.shape) < 2:
        return False
    down, along = (float(np.abs(np.diff(series.astype(np.float64), axis=axis)).mean()) for axis in (0, 1))
    return along < _SMOOTHER * down


def oddities(
    values: Mapping[str, NDArray[Any]], regions: Mapping[str, int], content: Content, case: str
) -> Iterator[Problem]:
    """Warnings about a subject that is kept: regions that do not vary, series that are short or seem transposed."""
    for atlas, still in constant_by_atlas(values, regions, content).items():
        if still.any():
            yield Problem(case, "", "constant-regions", f"{still.sum()} of {still.size} regions of {atlas}")
    if content == "series":
        for atlas, series in values.items():
            if _seems_transposed(series):
                detail = f"{atlas}: values change far less along the rows than down the columns; is each row a region?"
                yield Problem(case, "", "transposed", detail)
            if len(series) <= regions[atlas]:
                detail = f"{len(series)} time points, {regions[atlas]} regions of {atlas}"
                yield Problem(case, "", "few-time-points", detail)


def constant_by_atlas(
    values: Mapping[str, NDArray[Any]], regions: Mapping[str, int], content: Content
) -> dict[str, NDArray[np.bool_]]:
    """Which regions do not vary, by atlas; with correlations, those whose correlations are all 0."""
    if content == "series":
        return {atlas: constant_regions(series) for atlas, series in values.items()}
    found = {}
    for atlas, edges in values.items():
        matrix = to_matrices(np.asarray(edges)[np.newaxis] != 0, regions[atlas])[0]
        np.fill_diagonal(matrix, 0)
        found[atlas] = ~matrix.any(axis=0)
    return found
