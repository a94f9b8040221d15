"""The feature store: the connectome data of every subject, one memory-mapped file per atlas.

`features/store.json` names the subjects, in the order of the files' rows, and describes each atlas; beside it lie, per
atlas, either `<atlas>.series.npy` (all subjects' time series, one below the other, with `<atlas>.lengths.npy`) or
`<atlas>.correlation.npy` (one row of correlations per subject, in the order of `np.triu_indices(regions, 1)`).
Connections of any measure are computed once and kept as `measures/<atlas>.<measure>.npy`.
Memory does not grow with the number of subjects: they are written one by one and mapped when read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0
from numpy.typing import NDArray

from medformer.array_file import ArrayFileError, map_npy
from medformer.connectome.measures import (
    MEASURES,
    STORED_SHRINKAGE,
    block_from_correlation,
    block_from_series,
    triangle_size,
)
from medformer.errors import DataError
from medformer.files import atomic_path, digest, read_json, write_json
from medformer.progress import Reporter, SilentReporter

FORMAT = "medformer-connectomes/1"
STORE_FILE = "store.json"

Content = Literal["series", "correlation"]


@dataclass(frozen=True)
class StoredAtlas:
    """One atlas of a store.

    Attributes:
        regions: Number of regions.
        content: Whether time series or only correlations are stored.
        names: One per region.
        coordinates: Centers of the regions in MNI space, mm, None for a region without; None when not known.
        networks: The network of each region; None when not known.
        sha256: Hash of the stored numbers.
        numbers: What the files call each region, in their order; None where they do not say.
    """

    regions: int
    content: Content
    names: tuple[str, ...]
    coordinates: tuple[tuple[float, float, float] | None, ...] | None = None
    networks: tuple[str, ...] | None = None
    sha256: str = ""
    numbers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FeatureStore:
    """A store that is open for reading.

    Attributes:
        folder: Where its files are.
        ids: The subjects, in the order of the rows.
        atlases: What is stored, by atlas.
    """

    folder: Path
    ids: tuple[str, ...]
    atlases: Mapping[str, StoredAtlas]
    _open: dict[str, NDArray[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would carry its numbers; another process maps the same files instead.
        return open_store, (self.folder,)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each subject."""
        return {name: row for row, name in enumerate(self.ids)}

    def atlas(self, name: str) -> StoredAtlas:
        """What is stored of an atlas.

        Raises:
            DataError: Nothing is.
        """
        if name not in self.atlases:
            raise DataError(
                f"{self.folder} holds no atlas '{name}'; it holds {', '.join(self.atlases)}. "
                "Choose among these, or prepare the cohort again with it."
            )
        return self.atlases[name]

    def digest(self) -> str:
        """SHA-256 of the subjects and of all numbers, not of the files' place."""
        return digest([self.ids, {name: [block.regions, block.sha256] for name, block in self.atlases.items()}])

    def series(self, atlas: str, subject: str) -> NDArray[np.float32]:
        """Time series (T, R) of a subject, memory-mapped.

        Raises:
            DataError: The atlas or subject is not there, or only its correlations are stored.
        """
        block = self.atlas(atlas)
        if block.content != "series":
            raise DataError(f"{self.folder} holds only correlations of atlas '{atlas}', no time series.")
        ends = self._ends(atlas)
        row = self._row(subject)
        return self._values(atlas)[int(ends[row]) : int(ends[row + 1])]

    def stored(self, atlas: str, subject: str) -> NDArray[np.float32]:
        """What is stored of a subject: its time series (T, R) or its correlations (edges,); see `series` for errors."""
        if self.atlas(atlas).content == "series":
            return self.series(atlas, subject)
        return np.asarray(self._values(atlas)[self._row(subject)])

    def block(self, atlas: str, measure: str, *, reporter: Reporter | None = None) -> NDArray[np.float32]:
        """Connections (n, d) of all subjects, in the order of `ids`, memory-mapped.

        They are computed, subject by subject, when asked for the first time, and again when the store, or the software
        that computed them, is another.

        Args:
            atlas: An atlas of the store.
            measure: A name in `medformer.connectome.measures.MEASURES`.
            reporter: Shows the progress.

        Raises:
            DataError: The atlas is not there, or a subject's numbers cannot be used.
            UnknownNameError: No such measure.
            ResourceError: The result cannot be written.
        """
        block = self.atlas(atlas)
        diagonal = MEASURES[measure].part.diagonal
        if block.content == "correlation" and measure == "correlation":
            return self._values(atlas)
        shape = (len(self.ids), triangle_size(block.regions, diagonal))
        path = self.folder / "measures" / f"{atlas}.{measure}.npy"
        note = path.with_suffix(".json")
        made_from = digest([FORMAT, block.sha256, measure, shape, STORED_SHRINKAGE, version("nilearn")])
        if _noted(note) != made_from or not path.is_file():
            # Without its note a file counts as stale, so a new file never stands beside the note of the old one.
            note.unlink(missing_ok=True)
            self._compute(path, shape, atlas, measure, reporter or SilentReporter())
            write_json(note, {"digest": made_from})
        return _mapped(path, shape)

    def _compute(self, path: Path, shape: tuple[int, int], atlas: str, measure: str, reporter: Reporter) -> None:
        block = self.atlases[atlas]
        with atomic_path(path) as temporary:
            target = open_memmap(temporary, "w+", np.float32, shape)  # type: ignore[no-untyped-call]
            for row, subject in enumerate(reporter.track(self.ids, f"{measure} of {atlas}")):
                if block.content == "series":
                    series = self.series(atlas, subject)
                    target[row] = block_from_series(series, measure, case=f"{subject}, atlas {atlas}")
                else:
                    target[row] = block_from_correlation(self._values(atlas)[row], block.regions, measure)
            del target

    def _row(self, subject: str) -> int:
        if subject not in self.rows:
            raise DataError(f"{self.folder} holds no subject '{subject}'; prepare the cohort again.")
        return self.rows[subject]

    def _values(self, atlas: str) -> NDArray[np.float32]:
        block = self.atlases[atlas]
        if block.content == "series":
            shape = (int(self._ends(atlas)[-1]), block.regions)
        else:
            shape = (len(self.ids), triangle_size(block.regions))
        name = f"{atlas}.{block.content}.npy"
        if name not in self._open:
            self._open[name] = _mapped(self.folder / name, shape)
        return self._open[name]

    def _ends(self, atlas: str) -> NDArray[np.int64]:
        name = f"{atlas}.lengths.npy"
        if name not in self._open:
            lengths = _mapped(self.folder / name, (len(self.ids),), np.int64)
            self._open[name] = np.concatenate([[0], np.cumsum(lengths)])
        return self._open[name]


def open_store(folder: str | os.PathLike[str]) -> FeatureStore:
    """Open a store.

    Raises:
        DataError: The folder holds none, its description is damaged, or a file is missing or has the wrong size.
    """
    folder = Path(folder)
    path = folder / STORE_FILE
    try:
        content = read_json(path)
    except OSError:
        raise DataError(
            f"{path} is not there; expected the feature store of a cohort. `medformer abide prepare` writes one."
        ) from None
    except ValueError:
        raise DataError(f"{path} is not valid JSON; prepare the cohort again.") from None
    try:
        if content["format"] != FORMAT:
            raise DataError(f"{path} has the format '{content['format']}'; expected '{FORMAT}'. Prepare again.")
        store = FeatureStore(folder, tuple(content["ids"]), {a: _block(b) for a, b in content["atlases"].items()})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} does not describe a feature store ({error!r}); prepare the cohort again.") from None
    for atlas in store.atlases:
        store._values(atlas)
    return store


def _block(content: Mapping[str, Any]) -> StoredAtlas:
    if content["content"] not in ("series", "correlation"):
        raise ValueError(f"content '{content['content']}'")
    places = content["coordinates"]
    block = StoredAtlas(
        regions=int(content["regions"]),
        content=content["content"],
        names=tuple(content["names"]),
        coordinates=None if places is None else tuple(c and (float(c[0]), float(c[1]), float(c[2])) for c in places),
        networks=None if content["networks"] is None else tuple(content["networks"]),
        sha256=content["sha256"],
        numbers=None if content.get("numbers") is None else tuple(content["numbers"]),
    )
    for part in (block.names, block.coordinates, block.networks, block.numbers):
        if part is not None and len(part) != block.regions:
            raise ValueError(f"{len(part)} names, coordinates or networks for {block.regions} regions")
    return block


def _mapped(path: Path, shape: tuple[int, ...], dtype: type = np.float32) -> NDArray[Any]:
    try:
        values = map_npy(path)
    except ArrayFileError as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the cohort again.") from None
    if values.shape != shape or values.dtype != dtype:
        raise DataError(
            f"{path} holds {values.dtype} {values.shape}, expected {np.dtype(dtype)} {shape}. Prepare the cohort again."
        )
    return values


def _noted(note: Path) -> str:
    try:
        return str(read_json(note)["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


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
