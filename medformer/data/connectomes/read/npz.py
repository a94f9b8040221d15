"""Connectomes of a whole cohort in one `.npz` file.

It holds `ids` (n,), `label` or `dx` (1 positive, 0 negative), and `fc_<atlas>` with (n, edges) in the order of
`np.triu_indices(regions, 1)`, or (n, regions, regions); optionally `file_id` (the scans; `ids` are then the persons),
`site`, `age`, `sex` (1 or M, 2 or F), `mean_fd`, `fiq` and `n_timepoints`. Values are Pearson correlations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medformer.array_file import ArrayFileError, NpzRows, read_npz
from medformer.connectome.atlases import atlas_name
from medformer.connectome.measures import triangle_regions
from medformer.data.connectomes.read.diagnosis import Coding
from medformer.data.connectomes.read.matrices import OtherValuesError, Values, as_edges
from medformer.data.connectomes.read.phenotype import as_candidate, coding_of, require_sexes, value, without_conflicts
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.people import PERSON_COLUMNS, column_name
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.missing import known

_PREFIX = "fc_"
_LENGTH = "n_timepoints"
_COLUMNS = {
    **dict.fromkeys(("ids", *PERSON_COLUMNS), "person"),
    "file_id": "file",
    **dict.fromkeys(("dx", "label", "diagnosis"), "label"),
    "dx_group": "dx_group",
    **{name: name for name in ("site", "age", "sex", "mean_fd", "fiq", _LENGTH)},
}


@dataclass(frozen=True)
class NpzSource(ConnectomeSource):
    """One `.npz` file.

    Attributes:
        path: The file.
        arrays: The connectomes by atlas, a row per row of the file.
        rows: Row of each subject.
        holds: What the matrices hold.
    """

    path: Path
    arrays: Mapping[str, NpzRows]
    rows: Mapping[str, int]
    holds: Values = "auto"

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> SubjectData:
        """Read one subject's rows.

        Raises:
            UnusableError: They are damaged or hold no correlations.
        """
        values, regions = {}, {}
        row = self.rows[candidate.subject.id]
        for atlas in atlases:
            try:
                values[atlas], regions[atlas] = as_edges(self.arrays[atlas].row(row), self.holds)
            except ArrayFileError as error:
                raise UnusableError("corrupt", f"{_PREFIX}{atlas}: {error}", str(self.path)) from None
            except UnusableError as error:
                raise UnusableError(error.reason, f"{_PREFIX}{atlas}: {error}", str(self.path)) from None
            except OtherValuesError as error:
                raise OtherValuesError(f"{self.path}: {candidate.subject.id}: {_PREFIX}{atlas}: {error}") from None
        return SubjectData(values, regions, files=dict.fromkeys(atlases, str(self.path)))


def find_npz(path: Path, *, positive: str | None = None, unlabelled: bool = False, holds: Values = "auto") -> NpzSource:
    """Open an `.npz` file.

    Args:
        path: The file.
        positive: The diagnosis of the positive class, where it is none of the usual ones.
        unlabelled: Whether labels may be missing.
        holds: What the matrices hold.

    Raises:
        DataError: It is none, holds pickled objects, lacks an array, or arrays do not fit each other.
    """
    names, columns, arrays = _open(path)
    lacking = [
        text
        for text, there in (
            ("ids", "person" in columns),
            ("label", unlabelled or {"label", "dx_group"} & set(columns)),
            ("fc_<atlas>", arrays),
        )
        if not there
    ]
    if lacking:
        raise DataError(
            f"{path} lacks {', '.join(lacking)}; found {', '.join(names)}. Expected ids, label (1 positive, 0 "
            "negative) and fc_<atlas> with one row per subject."
        )
    flat = [name for name, column in columns.items() if column.ndim != 1]
    if flat:
        raise DataError(f"{path}: {', '.join(flat)} is no list; expected one value per subject.")
    count = len(columns["person"])
    lengths = {name: len(column) for name, column in columns.items()}
    lengths |= {f"{_PREFIX}{atlas}": len(array) for atlas, array in arrays.items()}
    wrong = [f"{name} {length}" for name, length in lengths.items() if length != count]
    if wrong:
        raise DataError(
            f"{path}: there are {count} ids, but other numbers of rows: {', '.join(wrong)}. Expected one row per id, "
            "subjects along the first axis."
        )
    for atlas, array in arrays.items():
        if len(array.shape) == 2:
            try:
                triangle_regions(array.shape[1])
            except DataError as error:
                raise DataError(f"{path}: {_PREFIX}{atlas}: {error}") from None
    table = [{name: value(str(cells[row])) for name, cells in columns.items()} for row in range(count)]
    coding = coding_of(table, str(path), positive=positive, unlabelled=unlabelled)
    require_sexes(table, str(path))
    candidates, problems, rows = _rows(path, table, coding, unlabelled)
    kept, conflicts = without_conflicts(candidates, str(path), unlabelled=unlabelled)
    problems = [*problems, *conflicts]
    return NpzSource("correlation", tuple(arrays), kept, problems, coding.names, path, arrays, rows, holds)


def _rows(
    path: Path, table: Sequence[Mapping[str, str]], coding: Coding, unlabelled: bool
) -> tuple[list[Candidate], list[Problem], dict[str, int]]:
    candidates: list[Candidate] = []
    problems: list[Problem] = []
    rows: dict[str, int] = {}
    for row, texts in enumerate(table):
        found = as_candidate(texts, str(path), coding, unlabelled=unlabelled)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        length = known(texts.get(_LENGTH)).removesuffix(".0")
        candidates.append(replace(found, time_points=int(length) if length.isdigit() else None))
        rows[found.subject.id] = row
    return candidates, problems, rows


def _open(path: Path) -> tuple[list[str], dict[str, NDArray[Any]], dict[str, NpzRows]]:
    """The names in the file, the columns by what they say, and the connectomes by atlas."""
    try:
        arrays, others = read_npz(path, lambda name: column_name(name) in _COLUMNS)
        columns: dict[str, NDArray[Any]] = {}
        for name in sorted(arrays, key=lambda name: list(_COLUMNS).index(column_name(name))):
            columns.setdefault(_COLUMNS[column_name(name)], arrays[name])
        connectomes = {
            atlas_name(name.removeprefix(_PREFIX)): NpzRows(path, name) for name in others if name.startswith(_PREFIX)
        }
    except ArrayFileError as error:
        raise DataError(
            f"{path} cannot be read: {error}. Expected an .npz file of ids, label and fc_<atlas>."
        ) from None
    return [*arrays, *others], columns, connectomes
