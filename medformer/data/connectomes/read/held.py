"""The connectome of one subject that is in memory already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.atlases import atlas_name
from medformer.connectome.columns import COVARIATES
from medformer.data.cases import Case
from medformer.data.connectomes.read.matrices import Values, as_edges
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.connectomes.store import Content
from medformer.errors import ConfigError, DataError

SUBJECT = "subject"
"""Id of a subject in memory."""


@dataclass(frozen=True)
class HeldSource(ConnectomeSource):
    """One subject in memory.

    Attributes:
        arrays: By atlas.
        holds: What matrices hold.
    """

    arrays: Mapping[str, NDArray[Any]]
    holds: Values = "auto"

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> SubjectData:
        """Check the arrays.

        Raises:
            UnusableError: They are no time series, or no correlations.
        """
        values, regions = {}, {}
        for atlas in (name for name in atlases if name in self.arrays):
            array = self.arrays[atlas]
            try:
                if self.content == "correlation":
                    values[atlas], regions[atlas] = as_edges(array, self.holds)
                else:
                    values[atlas], regions[atlas] = _series(array)
            except UnusableError as error:
                raise UnusableError(error.reason, f"{atlas}: {error}") from None
            except DataError as error:
                raise type(error)(f"{atlas}: {error}") from None
        return SubjectData(values, regions)


def hold_subject(
    arrays: Mapping[str, Any],
    *,
    content: Content = "correlation",
    holds: Values = "auto",
    covariates: Mapping[str, str | float] | None = None,
) -> HeldSource:
    """Take arrays as the connectome of one subject.

    Args:
        arrays: By atlas: time series (T, R), or correlations as a matrix (R, R) or as its upper triangle
            (R(R - 1)/2,) without the diagonal.
        content: Which of the two.
        holds: What matrices hold; Fisher's z is turned into correlations.
        covariates: What is known of the subject: site, age in years, sex (M or F), mean_fd in mm.

    Raises:
        ConfigError: A covariate of another name, or what matrices hold is said of time series.
        DataError: A covariate that makes no sense, or arrays that hold no numbers.
    """
    if content == "series" and holds != "auto":
        raise ConfigError(f"values={holds!r} says what matrices hold, and these are time series. Leave it out.")
    given = {atlas_name(name): np.asarray(array) for name, array in arrays.items()}
    odd = [f"{name} {array.dtype}" for name, array in given.items() if array.dtype.kind not in "fiu"]
    if odd or not given:
        raise DataError(f"Got {', '.join(odd) or 'no atlas'}; expected an array of real numbers for each atlas.")
    known = {name: _text(name, value) for name, value in (covariates or {}).items()}
    case = Case(SUBJECT, group=SUBJECT, site=known.pop("site", ""), covariates=known)
    return HeldSource(content, tuple(given), [Candidate(case)], (), {}, given, holds)


def _text(name: str, value: str | float) -> str:
    """A covariate as a table has it."""
    if name not in COVARIATES:
        raise ConfigError(f"covariates: got '{name}'; expected some of {', '.join(COVARIATES)}.")
    if name == "site":
        return str(value)
    if name == "sex":
        if value not in ("M", "F"):
            raise DataError(f"covariates: the sex is {value!r}; expected 'M' or 'F'.")
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise DataError(f"covariates: {name} is {value!r}; expected a number that is not negative.")
    return repr(number)


def _series(array: NDArray[Any]) -> tuple[NDArray[Any], int]:
    if array.ndim != 2 or array.shape[1] < 2:
        raise UnusableError("corrupt", f"found the shape {array.shape}; expected time series (time points, regions)")
    return array, array.shape[1]
