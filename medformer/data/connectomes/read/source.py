"""What every layout of connectomes is turned into: subjects, and a way to read the data of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.connectomes.store import Content
from medformer.data.problems import Problem
from medformer.errors import DataError


class UnusableError(DataError):
    """Data of one subject that cannot be used.

    Args:
        reason: A code in `medformer.data.problems.REASONS`.
        detail: What was found.
        path: The file it was found in; empty when there is none.
    """

    def __init__(self, reason: str, detail: str, path: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.path = path


def are_numbers(cells: Iterable[str]) -> bool:
    """Whether every cell of a text file is a number."""
    try:
        for cell in cells:
            float(cell)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Candidate:
    """A case that is kept if its data can be used.

    Attributes:
        subject: What is known of it.
        usable: What the raters of the quality control said; None when there were none.
        time_points: Length of the scan; None when it is only known after reading, or not at all.
    """

    subject: Case
    usable: bool | None = None
    time_points: int | None = None


@dataclass(frozen=True)
class SubjectData:
    """The data of one subject, by atlas.

    Attributes:
        values: Time series (T, R) or correlations (edges,).
        regions: Number of regions.
        numbers: What the file calls each region, usually the number in the label volume; absent without a header.
        files: Where they were read.
    """

    values: Mapping[str, NDArray[Any]]
    regions: Mapping[str, int]
    numbers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ConnectomeSource(ABC):
    """A folder or file in a known layout.

    Attributes:
        content: Whether time series or correlations are read.
        atlases: Every atlas that a subject has.
        candidates: The subjects, in the order in which they are read.
        problems: Rows and files that are no candidates.
        label_names: What the table calls class 1 and class 0.
        notes: What else is to be said about the folder.
    """

    content: Content
    atlases: tuple[str, ...]
    candidates: Sequence[Candidate]
    problems: Sequence[Problem]
    label_names: Mapping[int, str]
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def read(self, candidate: Candidate, atlases: Sequence[str]) -> SubjectData:
        """Read one subject; an atlas that is missing is absent from the result.

        Raises:
            UnusableError: The data are damaged.
        """
