"""What can be wrong with a case: codes for scripts, and sentences for people."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medformer.errors import DataError, counted
from medformer.files import write_csv
from medformer.names import shown

_SAID = 3

Severity = Literal["error", "warning"]

LISTED = 10
"""How many things an error lists."""

REASONS: dict[str, tuple[Severity, str]] = {
    "missing-image": ("error", "there is a mask but no image"),
    "missing-mask": ("error", "there is an image but no mask"),
    "bad-name": ("error", "the file's name cannot be an id"),
    "not-readable": ("error", "the file cannot be read"),
    "duplicate-name": ("error", "two files have the same name"),
    "corrupt": ("error", "the file cannot be decoded"),
    "changed": ("error", "the file is not the one that the manifest's hash was taken from"),
    "size-mismatch": ("error", "image and mask differ in size"),
    "tiny": ("error", "the picture is too small to be used"),
    "mask-is-image": ("error", "the mask is the picture itself"),
    "non-binary-mask": ("error", "the values of the mask do not say what is foreground"),
    "nothing-marked": ("error", "no mask has any foreground"),
    "shared-mask": ("error", "another picture has the same mask"),
    "mostly-marked": ("warning", "most masks mark most of their picture"),
    "empty-mask": ("warning", "the mask has no foreground"),
    "full-mask": ("warning", "the mask has no background"),
    "wrong-mode": ("warning", "the picture is not 8-bit RGB and is converted"),
    "duplicate-file": ("warning", "another case has the same file"),
    "duplicate-pixels": ("warning", "another case has the same pixels"),
    "formula": ("warning", "a spreadsheet takes a name for a formula; rename it before you open tables with one"),
    "not-an-image": ("warning", "the file is not an image and is left out"),
    "not-in-split": ("warning", "the named split does not list this case"),
    "split-case-missing": ("warning", "the named split lists a case that the folder lacks"),
    "no-file": ("error", "the phenotypic table names no file for this subject"),
    "no-data": ("error", "the phenotypic table lists this subject, and there are no data of it"),
    "not-in-table": ("error", "there are data but no row in the phenotypic table"),
    "doubled-row": ("error", "the phenotypic table has several rows for this file"),
    "unknown-label": ("error", "the diagnosis is not known"),
    "bad-value": ("error", "a value of the phenotypic table is impossible"),
    "label-conflict": ("error", "one person has two diagnoses"),
    "two-sites": ("error", "one person is listed at two sites"),
    "not-usable": ("error", "the quality control did not pass it"),
    "motion": ("error", "the head motion is above the limit or unknown"),
    "missing-atlas": ("error", "an atlas is missing"),
    "truncated": ("error", "the file ends in the middle of a line"),
    "not-finite": ("error", "values are NaN or infinite"),
    "not-symmetric": ("error", "the matrix is not symmetric"),
    "not-correlation": ("error", "the matrix does not hold correlations"),
    "region-count": ("error", "the number of regions differs from that of the atlas"),
    "region-names": ("error", "the regions or their order differ from those of the other subjects"),
    "unequal-lengths": ("error", "the time series of the atlases differ in length, so one of them is truncated"),
    "short-scan": ("error", "the number of time points is below the limit or unknown"),
    "too-constant": ("error", "more regions than the limit are constant over time"),
    "same-connectome": ("error", "another subject has exactly the same data"),
    "same-brain": ("warning", "the connectome of another subject shows the same brain"),
    "constant-regions": ("warning", "some regions are constant over time; their correlations are 0"),
    "transposed": ("warning", "each row of the series seems to be a region, and each column a time point"),
    "few-time-points": ("warning", "the series is not longer than the number of regions, so the matrix is singular"),
    "wrong-channels": ("error", "the channels are not those that the data set declares"),
    "several-series": ("error", "the folder holds more than one DICOM series"),
    "orientation-mismatch": ("error", "the axes of the files of one case point in different directions"),
    "affine-mismatch": ("error", "the files of one case have different positions in space"),
    "fractional-labels": ("error", "the label map holds values that are not whole numbers"),
    "undeclared-label": ("error", "the label map holds values that the data set does not declare"),
    "no-class": ("error", "the column `label` is neither 0 nor 1"),
    "constant-image": ("error", "every voxel of every channel has the same value"),
    "constant-channel": ("warning", "every voxel of a channel has the same value"),
    "affine-rounding": ("warning", "the positions of the files of one case differ by a rounding error"),
    "no-affine": ("warning", "the header does not state the position of the voxels"),
    "one-slice": ("warning", "the volume has a single slice along an axis"),
    "odd-spacing": ("warning", "the voxel size is far from that of the other cases"),
    "outside-range": ("warning", "the case lies outside of what the network was trained on"),
    "intensity-scale": ("warning", "the intensities of the cases are on very different scales"),
    "segment-numbers": ("error", "a segment has another number than in other cases"),
    "segment-names": ("warning", "segments of one number have different names"),
    "label-never-seen": ("warning", "no case has this declared label"),
    "label-seen-once": ("warning", "no other case has this label, so it is never both learned and tested"),
    "duplicate-voxels": ("warning", "another case has the same voxels"),
    "listed-missing": ("error", "dataset.json lists a file that is not there"),
    "paired-otherwise": ("warning", "dataset.json pairs an image with a label map of another name"),
    "not-read": ("warning", "it is not part of the layout and is left out"),
    "not-listed": ("warning", "dataset.json does not list these cases, and they are left out"),
    "count-differs": ("warning", "dataset.json states another number of cases"),
    "broken-link": ("error", "the link leads to nothing"),
    "numbered": ("warning", "the names end in numbers, as those of channels do"),
    "is-labels": ("warning", "the folder holds label maps, which are left out"),
    "forms-differ": ("warning", "the header states two positions of the voxels, which differ"),
    "no-labels-at-all": ("error", "there is nothing to learn from"),
    "without-labels": ("warning", "these images have no labels and are left out"),
}
"""Severity and meaning of every reason code."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one case.

    Attributes:
        case_id: The case; for a file that belongs to no case, the id it would have had.
        path: The file it concerns; empty when there is none.
        reason: A key of `REASONS`.
        detail: What was found.
    """

    case_id: str
    path: str
    reason: str
    detail: str = ""

    @property
    def severity(self) -> Severity:
        """`error` when the case cannot be used, else `warning`."""
        return REASONS[self.reason][0]

    def to_json(self) -> dict[str, str]:
        """The problem as plain data, for `audit.json`."""
        return {
            "id": self.case_id,
            "severity": self.severity,
            "reason": self.reason,
            "detail": self.detail,
            "path": self.path,
        }

    def __str__(self) -> str:
        detail = self.detail or REASONS[self.reason][1]
        where = f" ({self.path})" if self.path and self.path not in detail else ""
        return shown(f"{self.severity}: {self.case_id}: {self.reason}: {detail}{where}").replace("\n", "\\n")


def write_problems(path: str | os.PathLike[str], problems: Sequence[Problem]) -> None:
    """Write every problem as CSV: id, path, severity, reason, detail.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    rows = [{**problem.to_json(), "detail": problem.detail or REASONS[problem.reason][1]} for problem in problems]
    write_csv(Path(path), rows, ["id", "path", "severity", "reason", "detail"])


def quarantine(problems: Sequence[Problem]) -> list[str]:
    """Return the ids that cannot be used, each once, in order of appearance."""
    return list(dict.fromkeys(problem.case_id for problem in problems if problem.severity == "error"))


def require_usable(problems: Sequence[Problem], *, named: bool = False) -> None:
    """Fail when a case cannot be used.

    Args:
        problems: Of all cases.
        named: Whether the user has seen them already.

    Raises:
        DataError: Errors by reason, and the first ten in full where they were not named.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(error.reason for error in errors).most_common())
    raise DataError(
        f"{counted(len(quarantine(errors)), 'case')} cannot be used ({counts}); expected none"
        f"{'.' if named else f':{first_ten(errors)}'}\nRepair or remove these files, then prepare and check again."
    )


def describe_warnings(problems: Sequence[Problem], where: Path) -> list[str]:
    """Say how many warnings there are, the first few, and where all are listed; nothing without any."""
    found = [problem for problem in problems if problem.severity == "warning"]
    if not found:
        return []
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in found).most_common())
    first = "" if len(found) <= _SAID else f"; the first {_SAID}"
    return [f"{len(found)} warning(s) about the cases ({counts}): {where}{first}", *map(str, found[:_SAID])]


def first_ten(items: Sequence[object]) -> str:
    """The first ten of a list, each on an indented line of its own, and the number of the others."""
    lines = [str(item) for item in items[:LISTED]] + [f"and {len(items) - LISTED} more"] * (len(items) > LISTED)
    return "".join(f"\n  {line}" for line in lines)
