"""The table of exported cases, kept on disk during the work, and one output name for every input file.

An interruption loses nothing, two `frame001.png` from two folders never overwrite each other, and a resumed call keeps
only what it would make again byte for byte: hashes of the images and of the run, and the settings, stand in each row.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medformer.data.cases import image_hash
from medformer.errors import DataError, ResourceError
from medformer.files import read_csv, write_csv
from medformer.names import file_stem, id_fault

_SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class Exports:
    """Where the files of cases go.

    Attributes:
        folder: The folder that tables name them relative to.
        stems: The name of each case's files (see `file_stems`), below the folder of their kind and without ending.
    """

    folder: Path
    stems: Mapping[str, str] = field(default_factory=dict)

    def stem(self, case: str) -> str:
        """The name of a case's files.

        Raises:
            DataError: The id cannot be one.
        """
        return self.stems.get(case) or file_stem(require_id(case))


@dataclass(eq=False)
class ExportTable:
    """Lists exported cases in a CSV file of the output folder.

    Use it as a context manager. The table is rewritten about once a second and when the block is left, by an error
    or Ctrl-C as well: only what a SIGKILL cuts off in the last second has to be computed again.

    Args:
        out: Where the files go.
        name: Of the table.
        columns: Of the table; `id`, `image`, `image_sha256` and `run_sha256` among them.
        export: Writes the files of one case and returns the other columns; called as
            `export(case, *content, source=source)`.
        files: Where a case's file is, by column, with {} for its name; empty where no such file is wanted.
        settings: What a row must hold to be kept on resuming, by column.
        run: Hash of what predicts; a row of another run is not kept.
        resume: Keep the cases that the table already lists, if they were made from the same images, by the same run
            and with these settings, and their files are there. Without it, an existing table starts anew.

    Raises:
        DataError: `resume` was asked for, and the table is not one of ours.
    """

    out: Exports
    name: str
    columns: Sequence[str]
    export: Callable[..., Mapping[str, Any]]
    _: KW_ONLY
    files: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    run: str = ""
    resume: bool = False

    def __post_init__(self) -> None:
        self.table = self.out.folder / self.name
        self._rows: dict[str, Mapping[str, Any]] = self._earlier() if self.resume else {}
        self._new: dict[str, str] = {}
        self._written_at = float("-inf")
        self.outdated: list[str] = []
        """Cases of an earlier call that were asked for, and are made again."""

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """All rows so far; those kept from an earlier run hold text, as CSV does."""
        return list(self._rows.values())

    @property
    def of_others(self) -> int:
        """Number of rows that another run, or another threshold, made."""
        return sum(not self._as_now(row) for row in self._rows.values())

    def done(self, case: str, images: Sequence[Path] = ()) -> bool:
        """Whether a case is exported already, from the same images, and need not be computed."""
        row = self._rows.get(case)
        if row is None:
            return False
        stem = self.out.stem(case)
        current = (
            self._as_now(row)
            and all(row[name] == (where and where.format(stem)) for name, where in self.files.items())
            and row["image_sha256"] == _hash(images)
        )
        if not current:
            self.outdated.append(case)
            del self._rows[case]
        return current

    def add(
        self,
        case: str,
        *content: Any,
        source: str = "",
        images: Sequence[Path] = (),
        more: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Export one case and list it.

        Args:
            case: The id.
            content: What is exported.
            source: Where the input came from, for the table.
            images: The input's files.
            more: Cells of columns that the export does not fill.

        Raises:
            DataError: The id was exported in this run already; the second would overwrite the first.
            ResourceError: A file could not be written. Cases listed earlier stay listed.
        """
        if self.outdated and not self._new:
            # The table must not say of new files that they are the earlier ones.
            self.flush()
        stem = self.out.stem(case).casefold()
        clash = self._new.get(stem)
        if clash is not None:
            raise DataError(
                f"'{case}' ({source or 'no source'}) and '{clash}' ({self._rows[clash]['image'] or 'no source'}) would "
                "be exported to the same files. Give every case an id of its own."
            )
        hashes = {"image_sha256": _hash(images), "run_sha256": self.run}
        row = self._rows[case] = {**self.export(case, *content, source=source), **hashes, **(more or {})}
        self._new[stem] = case
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
            if self._rows:
                self.flush()

    def _as_now(self, row: Mapping[str, Any]) -> bool:
        """Whether a row was made by this run and with these settings."""
        expected = {**self.settings, "run_sha256": self.run}
        return all(str(row[name]) == value for name, value in expected.items())

    def _earlier(self) -> dict[str, Mapping[str, Any]]:
        """The rows of an earlier call whose files are there."""
        if not self.table.exists():
            return {}
        rows = read_csv(self.table)
        # A column that later versions added is empty in an earlier table.
        rows = [
            {**dict.fromkeys(self.columns, ""), **row} for row in rows if {"id", "run_sha256"} <= row.keys()
        ] or rows
        if any(set(row) != set(self.columns) for row in rows):
            raise DataError(
                f"{self.table} does not have the columns of an export ({', '.join(self.columns)}), so it cannot be "
                "resumed. Choose another folder, or start over without resuming."
            )

        def there(row: Mapping[str, str]) -> bool:
            return all(not row[name] or (self.out.folder / row[name]).is_file() for name in self.files)

        return {row["id"]: row for row in rows if there(row)}


def output_names(paths: Sequence[Path]) -> list[str]:
    """Name the outputs of input files.

    The stem, when all stems differ. Otherwise every file is named by its path below the folder that they share,
    without the suffix: `site_a/frame001` and `site_b/frame001`.

    Args:
        paths: Input files; relative and absolute paths may mix.

    Raises:
        DataError: Two files would still share a name, such as `frame001.png` beside `frame001.jpg`.
    """
    resolved = [Path(path).absolute() for path in paths]
    names = [path.stem.strip() for path in resolved]
    if _collision(names) is not None:
        folder = Path(os.path.commonpath([path.parent for path in resolved]))
        names = [path.relative_to(folder).with_suffix("").as_posix().strip() for path in resolved]
    clash = _collision(names)
    if clash is not None:
        first, second = clash
        raise DataError(
            f"{paths[first]} and {paths[second]} would both be exported as '{names[second]}'. "
            "Rename one of them, or predict them into different folders."
        )
    return names


def require_id(identifier: str) -> str:
    """Return an id that can be one.

    Raises:
        DataError: It cannot; see `medformer.names.id_fault`.
    """
    fault = id_fault(identifier)
    if fault is not None:
        raise DataError(f"The case {identifier!a} cannot be exported: {fault}.")
    return identifier


def _hash(images: Sequence[Path]) -> str:
    """See `image_hash`; a word for a file that cannot be read, which the caller finds out by itself."""
    try:
        return image_hash(images) if images else ""
    except OSError:
        return "unreadable"


def _collision(names: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the first two names that are equal."""
    repeated = next((name for name, times in Counter(names).items() if times > 1), None)
    if repeated is None:
        return None
    first = names.index(repeated)
    return first, names.index(repeated, first + 1)
