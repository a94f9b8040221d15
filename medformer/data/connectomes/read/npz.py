"""Connectomes of a whole cohort in one `.npz` file.

It holds `ids` (n,), `dx` or `label` (1 autism, 0 control), and `fc_<atlas>` with (n, edges) in the order of
`np.triu_indices(regions, 1)`, or (n, regions, regions); optionally `file_id` (the scans; `ids` are then the persons),
`site`, `age`, `sex` (1 or M, 2 or F), `mean_fd`, `fiq` and `n_timepoints`. Values are Pearson correlations.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medformer.connectome.atlases import atlas_name
from medformer.connectome.measures import triangle_regions
from medformer.data.connectomes.read.files import as_edges
from medformer.data.connectomes.read.phenotype import as_candidate, value, without_conflicts
from medformer.data.connectomes.read.source import Candidate, ConnectomeSource, SubjectData, UnusableError
from medformer.data.problems import Problem
from medformer.errors import DataError

_PREFIX = "fc_"
_COLUMNS = {
    "ids": "person",
    "file_id": "file",
    "dx": "label",
    "label": "label",
    **{name: name for name in ("site", "age", "sex", "mean_fd", "fiq")},
}
_LENGTH = "n_timepoints"


class NpzRows:
    """An array in an `.npz` file that is read row by row, so that it is never in memory as a whole.

    Rows may be asked for in any order; in the file's order it is decompressed once.

    Raises:
        DataError: It holds pickled objects, or is not stored row by row.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        # Open for as long as rows are asked for.
        self._file: IO[bytes] = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115
        try:
            shape, by_columns, dtype = _header(self._file)
        except ValueError as error:
            raise DataError(f"{path}: {name} cannot be read ({error}); write the file again with numpy.") from None
        if dtype.kind not in "fiu" or by_columns or len(shape) < 2:
            raise DataError(
                f"{path}: {name} is {dtype} {shape}{' in Fortran order' * by_columns}; expected numbers in C order, "
                "a row of correlations or a matrix per subject."
            )
        self.shape: tuple[int, ...] = shape
        self._dtype = np.dtype(dtype)
        self._start = self._file.tell()

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, index: int) -> NDArray[Any]:
        """One row.

        Raises:
            UnusableError: The file ends before it, or is damaged there.
        """
        size = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        try:
            self._file.seek(self._start + index * size)
            content = self._file.read(size)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise UnusableError("corrupt", f"row {index} of {self.name} cannot be read ({error})") from None
        if len(content) != size:
            raise UnusableError("truncated", f"row {index} of {self.name} ends after {len(content)} of {size} bytes")
        return np.frombuffer(content, self._dtype).reshape(self.shape[1:])


@dataclass(frozen=True)
class NpzSource(ConnectomeSource):
    """One `.npz` file.

    Attributes:
        arrays: The connectomes by atlas, a row per row of the file.
        rows: Row of each subject.
    """

    arrays: Mapping[str, NpzRows]
    rows: Mapping[str, int]

    def read(self, candidate: Candidate, atlases: Sequence[str]) -> SubjectData:
        """Read one subject's rows.

        Raises:
            UnusableError: They are damaged or hold no correlations.
        """
        values, regions = {}, {}
        for atlas in atlases:
            try:
                values[atlas], regions[atlas] = as_edges(self.arrays[atlas].row(self.rows[candidate.subject.id]))
            except UnusableError as error:
                raise UnusableError(error.reason, f"{_PREFIX}{atlas}: {error}") from None
        return SubjectData(values, regions)


def find_npz(path: Path, *, unlabelled: bool = False) -> NpzSource:
    """Open an `.npz` file.

    Args:
        path: The file.
        unlabelled: Whether labels may be missing.

    Raises:
        DataError: It is none, holds pickled objects, lacks an array, or arrays do not fit each other.
    """
    columns, arrays = _open(path)
    lacking = [
        text
        for text, there in (
            ("ids", "ids" in columns),
            ("dx", unlabelled or {"dx", "label"} & set(columns)),
            ("fc_<atlas>", arrays),
        )
        if not there
    ]
    if lacking:
        found = [*columns, *(f"{_PREFIX}{atlas}" for atlas in arrays)]
        raise DataError(
            f"{path} lacks {', '.join(lacking)}; found {', '.join(found)}. Expected ids, dx (1 autism, 0 control) and "
            "fc_<atlas> with one row per subject."
        )
    count = len(columns["ids"])
    lengths = {name: len(column) for name, column in columns.items()}
    lengths |= {f"{_PREFIX}{atlas}": len(array) for atlas, array in arrays.items()}
    wrong = [name for name, length in lengths.items() if length != count]
    if wrong:
        raise DataError(f"{path}: {', '.join(wrong)} differ in length from ids; expected {count} rows each.")
    for atlas, array in arrays.items():
        if len(array.shape) == 2:
            try:
                triangle_regions(array.shape[1])
            except DataError as error:
                raise DataError(f"{path}: {_PREFIX}{atlas}: {error}") from None
    candidates, problems, rows = _rows(path, columns, count, unlabelled)
    kept, conflicts = without_conflicts(candidates, str(path), unlabelled=unlabelled)
    return NpzSource("correlation", tuple(arrays), kept, [*problems, *conflicts], arrays, rows)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)  # type: ignore[no-untyped-call]
    if version == (1, 0):
        return npy.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
    return npy.read_array_header_2_0(file)  # type: ignore[no-untyped-call]


def _rows(
    path: Path, columns: Mapping[str, NDArray[Any]], count: int, unlabelled: bool
) -> tuple[list[Candidate], list[Problem], dict[str, int]]:
    candidates: list[Candidate] = []
    problems: list[Problem] = []
    rows: dict[str, int] = {}
    for row in range(count):
        texts = {_COLUMNS[name]: value(str(values[row])) for name, values in columns.items() if name in _COLUMNS}
        found = as_candidate(texts, str(path), unlabelled=unlabelled)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        length = int(columns[_LENGTH][row]) if _LENGTH in columns else None
        candidates.append(replace(found, time_points=length))
        rows[found.subject.id] = row
    return candidates, problems, rows


def _open(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NpzRows]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            columns = {name: archive[name] for name in names if name in {*_COLUMNS, _LENGTH}}
        arrays = {atlas_name(n.removeprefix(_PREFIX)): NpzRows(path, n) for n in names if n.startswith(_PREFIX)}
    except FileNotFoundError:
        raise DataError(f"{path} is not there; expected an .npz file of connectomes.") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); expected an .npz file without pickled objects.") from None
    return columns, arrays
