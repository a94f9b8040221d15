"""The table of exported cases, kept on disk during the work, and one output name for every input file.

An interruption loses nothing, and two `frame001.png` from two folders never overwrite each other.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from medformer.errors import DataError, ResourceError
from medformer.files import read_csv, write_csv

_SECONDS_BETWEEN_WRITES = 1.0


@dataclass(eq=False)
class ExportTable:
    """Lists exported cases in a CSV file of the output folder.

    Use it as a context manager. The table is rewritten about once a second and when the block is left, by an error
    or Ctrl-C as well: only what a SIGKILL cuts off in the last second has to be computed again.

    Args:
        out: The output folder.
        name: Of the table.
        columns: Of the table; `id` and `image` among them.
        export: Writes the files of one case and returns its row; called as `export(case, *content, source=source)`.
        files: What the name of a case's file ends in, by column; empty where no such file is wanted.
        settings: What a row must hold to be kept on resuming, by column.
        resume: Keep the cases that the table already lists, if they have these files and settings. Without it, an
            existing table starts anew.

    Raises:
        DataError: `resume` was asked for, and the table is not one of ours.
    """

    out: Path
    name: str
    columns: Sequence[str]
    export: Callable[..., Mapping[str, Any]]
    _: KW_ONLY
    files: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False

    def __post_init__(self) -> None:
        self.table = self.out / self.name
        self._rows: dict[str, Mapping[str, Any]] = self._kept() if self.resume else {}
        self._new: dict[str, str] = {}
        self._written_at = float("-inf")

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """All rows so far; those kept from an earlier run hold text, as CSV does."""
        return list(self._rows.values())

    def done(self, case: str) -> bool:
        """Whether a case is exported already and need not be computed."""
        return case in self._rows

    def add(self, case: str, *content: Any, source: str = "") -> Mapping[str, Any]:
        """Export one case and list it.

        Args:
            case: The id.
            content: What is exported.
            source: Where the input came from, for the table.

        Raises:
            DataError: The id was exported in this run already; the second would overwrite the first.
            ResourceError: A file could not be written. Cases listed earlier stay listed.
        """
        clash = self._new.get(case.casefold())
        if clash is not None:
            raise DataError(
                f"'{case}' ({source or 'no source'}) and '{clash}' ({self._rows[clash]['image'] or 'no source'}) would "
                "be exported to the same files. Give every case an id of its own."
            )
        row = self._rows[case] = self.export(case, *content, source=source)
        self._new[case.casefold()] = case
        if time.monotonic() - self._written_at > _SECONDS_BETWEEN_WRITES:
            self.flush()
        return row

    def flush(self) -> None:
        """Write the table now."""
        write_csv(self.table, self.rows, self.columns)
        self._written_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
            return
        # The error on its way says more than a table that cannot be written to the same full disk.
        with suppress(ResourceError):
            self.flush()

    def _current(self, row: Mapping[str, str]) -> bool:
        """Whether an earlier row was made with these settings and its files are still there."""
        return all(row[name] == value for name, value in self.settings.items()) and all(
            row[name].endswith(ending) and (self.out / row[name]).is_file() if ending else not row[name]
            for name, ending in self.files.items()
        )

    def _kept(self) -> dict[str, Mapping[str, Any]]:
        if not self.table.exists():
            return {}
        rows = read_csv(self.table)
        if any(set(row) != set(self.columns) for row in rows):
            raise DataError(
                f"{self.table} does not have the columns of an export ({', '.join(self.columns)}), so it cannot be "
                "resumed. Choose another folder, or start over without resuming."
            )
        return {row["id"]: row for row in rows if self._current(row)}


def output_names(paths: Sequence[Path]) -> list[str]:
    """Name the outputs of input files.

    The stem, when all stems differ. Otherwise every file is named by its path below the folder that they share,
    without the suffix: `site_a/frame001` and `site_b/frame001`. Capital letters do not tell names apart, because
    on many file systems they do not tell files apart.

    Args:
        paths: Input files; relative and absolute paths may mix.

    Raises:
        DataError: Two files would still share a name, such as `frame001.png` beside `frame001.jpg`.
    """
    resolved = [Path(path).absolute() for path in paths]
    stems = [path.stem for path in resolved]
    if _collision(stems) is None:
        return stems
    folder = Path(os.path.commonpath([path.parent for path in resolved]))
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in resolved]
    clash = _collision(names)
    if clash is not None:
        first, second = clash
        raise DataError(
            f"{paths[first]} and {paths[second]} would both be exported as '{names[second]}'. "
            "Rename one of them, or predict them into different folders."
        )
    return names


def check_name(name: str) -> str:
    """Return `name` if it stays inside the output folder.

    Raises:
        DataError: The name is empty, absolute, climbs out with `..`, or holds characters that files cannot.
    """
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not name.startswith("/") and ".." not in parts
    if not inside or any(character in '\\:*?"<>|' or ord(character) < 32 for character in name):
        raise DataError(
            f"The case id {name!r} cannot name a file below the output folder. "
            "Use letters, digits, dots, dashes and underscores, with / between folders."
        )
    return name


def _collision(names: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the first two names that are equal but for capital letters."""
    folded = [name.casefold() for name in names]
    repeated = next((name for name, times in Counter(folded).items() if times > 1), None)
    if repeated is None:
        return None
    first = folded.index(repeated)
    return first, folded.index(repeated, first + 1)
