"""What training cases looked like, in aggregate numbers, and which new cases lie outside of that.

A fold leaves `range.json`: for each measured quantity, such as the size of a voxel, the lowest and the highest number
of its training cases. It names no case. A new case lies outside where it is farther off than a margin: half of the
range of fewer than `MANY` cases, a quarter of that of more (the extremes of few cases say little), and at least a
twentieth of the number itself, so that a quantity that was the same for all cases need not be so to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medformer.data.problems import Problem
from medformer.files import write_json
from medformer.records import Content, read_record

RANGE = "range.json"
"""Name of the file in the folder of a fold."""

FORMAT = "medformer-range/1"

MANY = 30

Traits = Mapping[str, float]
"""Measured quantities of a case, by a name that says the unit."""


@dataclass(frozen=True)
class TrainingRange:
    """The range of each quantity over training cases.

    Attributes:
        cases: How many there were.
        spans: Lowest and highest number by quantity.
    """

    cases: int
    spans: Mapping[str, tuple[float, float]]

    def outside(self, traits: Traits) -> list[str]:
        """Say which quantities of a new case are outside; one that no training case had is not judged."""
        found = []
        for name, value in traits.items():
            if name not in self.spans or not math.isfinite(value):
                continue
            low, high = self.spans[name]
            margin = max((0.5 if self.cases < MANY else 0.25) * (high - low), 0.05 * max(abs(low), abs(high)))
            if not low - margin <= value <= high + margin:
                span = " to ".join(dict.fromkeys(map(_spelled, (low, high))))
                found.append(f"{name} {_spelled(value)} (training cases: {span})")
        return found

    def problems(self, case: str, path: Path | str, traits: Traits) -> list[Problem]:
        """A warning for a case that lies outside."""
        found = self.outside(traits)
        return [Problem(case, str(path), OUTSIDE, "; ".join(found))] if found else []


def _spelled(value: float) -> str:
    """Three digits, and of large numbers every digit before the point: 1080 and not 1.08e+03."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


OUTSIDE = "outside-range"
"""Reason of the warning."""


def outside_column(problems: Iterable[Problem]) -> dict[str, str]:
    """What the column `outside` of a table of predictions says, by case."""
    return {problem.case_id: problem.detail for problem in problems if problem.reason == OUTSIDE}


def write_range(folder: Path, cases: Sequence[Traits]) -> None:
    """Leave the range of training cases in the folder of a fold; nothing where nothing was measured."""
    names = dict.fromkeys(name for traits in cases for name in traits)
    values = {name: [traits[name] for traits in cases if math.isfinite(traits.get(name, math.nan))] for name in names}
    spans = {name: (min(some), max(some)) for name, some in values.items() if some}
    if spans:
        write_json(folder / RANGE, {"format": FORMAT, "cases": len(cases), "spans": spans})


def read_range(folders: Sequence[Path]) -> TrainingRange | None:
    """Read the widest range of several folds; None where none left one, as runs of earlier versions.

    Raises:
        DataError: A file is damaged.
    """
    files = [folder / RANGE for folder in folders if (folder / RANGE).is_file()]
    advice = "Remove it; new cases are then not compared with the training cases."
    found = [read_record(file, _RangeFile, advice) for file in files]
    if not found:
        return None
    spans: dict[str, tuple[float, float]] = {}
    for content in found:
        for name, (low, high) in content.spans.items():
            before = spans.get(name, (low, high))
            spans[name] = min(before[0], low), max(before[1], high)
    return TrainingRange(max(content.cases for content in found), spans)


def share_range(folder: Path, out: Path) -> None:
    """Copy what a bundle may hold of a fold's range, if there is one."""
    known = read_range([folder])
    if known is not None:
        write_json(out / RANGE, {"format": FORMAT, "cases": known.cases, "spans": dict(known.spans)})


class _RangeFile(Content):
    format: Literal["medformer-range/1"]
    cases: int
    spans: dict[str, tuple[float, float]]
