"""Writing a feature store subject by subject, so that memory does not grow with the cohort."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from medformer.connectome.measures import triangle_size
from medformer.data.connectomes.store import FORMAT, STORE_FILE, StoredAtlas
from medformer.errors import DataError
from medformer.files import atomic_path, write_json


@dataclass
class _Growing:
    """A .npy file that grows by rows."""

    block: StoredAtlas
    file: IO[bytes]
    width: int
    hash: Any = field(default_factory=hashlib.sha256)
    lengths: list[int] = field(default_factory=list)

    def header(self) -> None:
        """Write the header for the rows there are; numpy leaves room in it for the number to grow."""
        self.file.seek(0)
        content = {"descr": "<f4", "fortran_order": False, "shape": (sum(self.lengths), self.width)}
        write_array_header_1_0(self.file, content)  # type: ignore[no-untyped-call]

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows (k, width)."""
        content = np.ascontiguousarray(rows, "<f4").tobytes()
        self.hash.update(len(rows).to_bytes(8, "little"))
        self.hash.update(content)
        self.file.write(content)
        self.lengths.append(len(rows))


class StoreWriter:
    """Writes a store. Nothing is there before the last subject is: use it as a context manager.

    Args:
        folder: Where; an older store there is replaced.
        atlases: What there will be, by atlas; hashes are filled in.
    """

    def __init__(self, folder: str | os.PathLike[str], atlases: Mapping[str, StoredAtlas]) -> None:
        self.folder = Path(folder)
        self.atlases = dict(atlases)
        self._files: dict[str, _Growing] = {}
        self._ids: dict[str, None] = {}
        self._stack = ExitStack()

    def __enter__(self) -> StoreWriter:
        # While there are new files below an old description, or the other way round, there is no store.
        (self.folder / STORE_FILE).unlink(missing_ok=True)
        with ExitStack() as stack:
            for atlas, block in self.atlases.items():
                temporary = stack.enter_context(atomic_path(self.folder / f"{atlas}.{block.content}.npy"))
                width = block.regions if block.content == "series" else triangle_size(block.regions)
                growing = _Growing(block, stack.enter_context(open(temporary, "wb")), width)
                growing.header()
                self._files[atlas] = growing
            self._stack = stack.pop_all()
        return self

    def add(self, subject: str, values: Mapping[str, NDArray[np.floating[Any]]]) -> None:
        """Add a subject.

        Args:
            subject: Its id.
            values: By atlas, either the time series (T, R) or the correlations (edges,).

        Raises:
            DataError: The subject was added before, an atlas is missing, or a shape does not fit.
        """
        if subject in self._ids:
            raise DataError(f"Subject '{subject}' was added twice; expected every id once.")
        rows: dict[str, NDArray[np.float32]] = {}
        for atlas, growing in self._files.items():
            if atlas not in values:
                raise DataError(f"Subject '{subject}' has no atlas '{atlas}'; expected {', '.join(self._files)}.")
            given = np.asarray(values[atlas], np.float32)
            given = given[np.newaxis] if growing.block.content == "correlation" and given.ndim == 1 else given
            if given.ndim != 2 or given.shape[1] != growing.width or not len(given):
                raise DataError(
                    f"Subject '{subject}', atlas '{atlas}': found the shape {values[atlas].shape}, "
                    f"expected {growing.width} numbers per row."
                )
            rows[atlas] = given
        for atlas, given in rows.items():
            self._files[atlas].append(given)
        self._ids[subject] = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for growing in self._files.values():
                growing.header()
        self._stack.__exit__(kind, error, trace)
        if kind is not None:
            return
        described = {}
        for atlas, growing in self._files.items():
            if growing.block.content == "series":
                with atomic_path(self.folder / f"{atlas}.lengths.npy") as temporary:
                    np.save(temporary, np.asarray(growing.lengths, np.int64))
            described[atlas] = asdict(replace(growing.block, sha256=growing.hash.hexdigest()))
        write_json(self.folder / STORE_FILE, {"format": FORMAT, "ids": list(self._ids), "atlases": described})
