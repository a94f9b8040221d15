"""The table of exported cases, kept on disk while the work goes on, so that an interruption loses nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError, ResourceError
from medformer.files import read_csv, write_csv
from medformer.inference.frames.export import COLUMNS, Probabilities, export_case

TABLE = "predictions.csv"

_SECONDS_BETWEEN_WRITES = 1.0


class ExportTable:
    """Lists exported cases in a CSV file of the output folder.

    Use it as a context manager. The table is rewritten about once a second and when the block is left, by an error
    or Ctrl-C as well: only what a SIGKILL cuts off in the last second has to be computed again.

    Args:
        out: The output folder.
        columns: Of the table; `id` and `image` among them.
        name: Of the table.
        resume: Keep the cases that the table already lists, if they are `_current`. Without it, an existing table
            starts anew.

    Raises:
        DataError: `resume` was asked for, and the table is not one of ours.
    """

    def __init__(self, out: Path, columns: Sequence[str], *, name: str = TABLE, resume: bool = False) -> None:
        self.out = Path(out)
        self.table = self.out / name
        self._columns = tuple(columns)
        self._rows: dict[str, Mapping[str, Any]] = self._kept() if resume else {}
        self._new: dict[str, str] = {}
        self._written_at = float("-inf")

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """All rows so far; those kept from an earlier run hold text, as CSV does."""
        return list(self._rows.values())

    def done(self, case: str) -> bool:
        """Whether a case is exported already and need not be computed."""
        return case in self._rows

    def require_new(self, case: str, source: str) -> None:
        """Refuse a case whose files would overwrite those of another one of this run.

        Raises:
            DataError: The id was exported in this run already.
        """
        clash = self._new.get(case.casefold())
        if clash is not None:
            raise DataError(
                f"'{case}' ({source or 'no source'}) and '{clash}' ({self._rows[clash]['image'] or 'no source'}) would "
                "be exported to the same files. Give every case an id of its own."
            )

    def record(self, case: str, row: Mapping[str, Any]) -> None:
        """List a case whose files are written.

        Raises:
            ResourceError: The table could not be written. Cases listed earlier stay listed.
        """
        self._rows[case] = row
        self._new[case.casefold()] = case
        if time.monotonic() - self._written_at > _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write the table now."""
        write_csv(self.table, self.rows, self._columns)
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
        return True

    def _kept(self) -> dict[str, Mapping[str, Any]]:
        if not self.table.exists():
            return {}
        rows = read_csv(self.table)
        if any(set(row) != set(self._columns) for row in rows):
            raise DataError(
                f"{self.table} does not have the columns of an export ({', '.join(self._columns)}), so it cannot be "
                "resumed. Choose another folder, or start over without resuming."
            )
        return {row["id"]: row for row in rows if self._current(row)}


class Export(ExportTable):
    """Exports segmented images one by one and lists them in `predictions.csv`.

    A case is kept on resuming if it was exported with these same settings and its files are there.

    Args:
        out: The output folder.
        threshold: See `export_case`.
        probabilities: See `export_case`.
        overlays: Draw the masks' contours on the images.
        resume: See `ExportTable`.
    """

    def __init__(
        self,
        out: Path,
        *,
        threshold: float,
        probabilities: Probabilities = "none",
        overlays: bool = True,
        resume: bool = False,
    ) -> None:
        self.threshold = float(threshold)
        self.probabilities = probabilities
        self.overlays = overlays
        super().__init__(out, COLUMNS, resume=resume)

    def add(
        self,
        case: str,
        image: NDArray[np.uint8] | None,
        probability: NDArray[np.float32],
        *,
        source: str = "",
        truth: NDArray[np.bool_] | None = None,
    ) -> Mapping[str, Any]:
        """Export one case (see `export_case`) and list it.

        Raises:
            DataError: The id was exported in this run already; the second would overwrite the first.
            ResourceError: A file could not be written. Cases listed earlier stay listed.
        """
        self.require_new(case, source)
        row = export_case(
            self.out,
            case,
            image if self.overlays else None,
            probability,
            self.threshold,
            source=source,
            probabilities=self.probabilities,
            truth=truth,
        )
        self.record(case, row)
        return row

    def _current(self, row: Mapping[str, str]) -> bool:
        suffix = "" if self.probabilities == "none" else f".{self.probabilities}"
        same = (
            row["threshold"] == repr(self.threshold)
            and Path(row["probability_file"]).suffix == suffix
            and bool(row["overlay_file"]) == self.overlays
        )
        files = [row[name] for name in ("mask_file", "probability_file", "overlay_file") if row[name]]
        return same and all((self.out / file).is_file() for file in files)
