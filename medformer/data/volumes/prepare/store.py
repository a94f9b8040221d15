"""Prepared cases on disk, made once and shared by folds, by a resumed run and by loader processes.

In the store's folder lie, for each case, `<key>.image.npy` with `<key>.json` (where its voxels are), and
`<key>.classes.npy` with `<key>.voxels.npy` (where its labels are). A key is the hash of the case's files and of those
parts of the plan that decide what the arrays hold, so folds whose plans agree in these share the files, and a file
that changed is prepared again. The second file of each pair is written last: without it the pair counts as missing.
Everything is memory-mapped; what fits in a budget is held in memory besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case, image_hash
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.prepare_case import ORDER, PreparedCase, prepare_classes, prepare_image
from medformer.errors import DataError
from medformer.files import atomic_path, digest, read_json, write_json
from medformer.imaging.geometry import Geometry
from medformer.progress import Reporter, SilentReporter
from medformer.seeds import derive_seed

FORMAT = "medformer-prepared-volumes/1"

MAX_VOXELS = 10_000
"""Voxels of each class that are remembered per case; of larger ones a random sample."""


@dataclass(frozen=True)
class _Files:
    """Where one prepared case is; the last two are None without labels."""

    image: Path
    note: Path
    classes: Path | None
    voxels: Path | None


class PreparedStore:
    """Prepared cases by id.

    A copy of it in another process reads the same files, mapped into memory, instead of carrying the voxels there; a
    process that is forked shares what is held in memory.
    """

    def __init__(
        self,
        folder: Path,
        plan: VolumePlan,
        cases: Sequence[Case],
        *,
        memory_gb: float,
        labels: bool = True,
        hashes: Mapping[Path, str] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """Prepare the cases that are not there yet.

        Args:
            folder: Where the prepared files are kept; several stores may share it.
            plan: Of this training.
            cases: Rows of a manifest.
            memory_gb: How much is held in memory; the cases beyond it are read from disk when they are needed.
            labels: Whether every case has a label map, which is prepared too.
            hashes: SHA-256 of files by path, where they are known (see `file_hashes`); the others are computed.
            reporter: Receives one step per case.

        Raises:
            DataError: A case cannot be prepared; see `prepare_case`.
            ResourceError: The prepared files cannot be written.
        """
        self.folder = Path(folder)
        self.plan = plan
        self.memory_gb = memory_gb
        self._hashes = dict(hashes or {})
        self._files: dict[str, _Files] = {}
        self._open: dict[str, PreparedCase] = {}
        self._voxels: dict[str, NDArray[np.int64]] = {}
        left = memory_gb * 1e9
        for case in (reporter or SilentReporter()).track(cases, "Preparing volumes"):
            files = self._files[case.id] = self._made(case, labels)
            prepared, voxels = _load(case.id, files)
            size = prepared.image.nbytes + (0 if prepared.classes is None else prepared.classes.nbytes)
            if size <= left:
                left -= size
                prepared = _held(prepared)
            self._open[case.id] = prepared
            self._voxels[case.id] = voxels

    @property
    def ids(self) -> tuple[str, ...]:
        """Its cases."""
        return tuple(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[PreparedCase]:
        return (self[name] for name in self._files)

    def __getitem__(self, name: str) -> PreparedCase:
        """Give a case; its arrays must not be written to.

        Raises:
            DataError: It is not among the cases, or its prepared files were removed or damaged meanwhile.
        """
        if name not in self._open:
            self._open[name], self._voxels[name] = _load(name, self._files_of(name))
        return self._open[name]

    def voxels(self, name: str) -> dict[int, NDArray[np.int64]]:
        """Where a case's labels are: for each class that it has, flat indices of at most `MAX_VOXELS` of its voxels."""
        self[name]
        return _by_class(self._voxels[name])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_voxels": {}}

    def _files_of(self, name: str) -> _Files:
        if name not in self._files:
            raise DataError(f"Case '{name}' is not among the {len(self._files)} prepared ones in {self.folder}.")
        return self._files[name]

    def _made(self, case: Case, labels: bool) -> _Files:
        plan = self.plan
        grid = [FORMAT, ORDER, plan.orientation, plan.spacing, [self._hash(path) for path in case.images]]
        key = digest([*grid, plan.to_json()["intensity"]])[:32]
        files = _Files(self.folder / f"{key}.image.npy", self.folder / f"{key}.json", None, None)
        if not _complete(files):
            prepared = prepare_image(case, plan)
            _save(files.image, prepared.image)
            write_json(files.note, _note(prepared))
        if not labels:
            return files
        source = _load(case.id, files)[0].source
        key = digest([*grid, plan.labels, self._hash(case.required_mask())])[:32]
        files = _Files(files.image, files.note, self.folder / f"{key}.classes.npy", self.folder / f"{key}.voxels.npy")
        assert files.classes is not None and files.voxels is not None
        if not _complete(files):
            classes = prepare_classes(case, plan, source)
            _save(files.classes, classes)
            _save(files.voxels, _find_voxels(classes, plan.classes, key))
        return files

    def _hash(self, path: Path) -> str:
        """Hash of a file, or of the files of a folder with one DICOM series."""
        try:
            return self._hashes.get(path) or image_hash([path])
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); correct the manifest, or restore it."
            ) from error


def _note(prepared: PreparedCase) -> dict[str, Any]:
    source = prepared.source
    return {
        "affine": prepared.affine.tolist(),
        "source": {"shape": source.shape, "affine": source.affine.tolist(), "placed": source.placed},
        "lowest": prepared.lowest.tolist(),
    }


def _complete(files: _Files) -> bool:
    """Whether all of the files are there and undamaged, as far as their sizes tell."""
    try:
        _load("", files)
    except DataError:
        return False
    return True


def _load(name: str, files: _Files) -> tuple[PreparedCase, NDArray[np.int64]]:
    """Map a case into memory, and what `_find_voxels` found in it; `[0]` without labels."""
    try:
        note = read_json(files.note)
        source = note["source"]
        first, second, third = source["shape"]
        affine = np.array(source["affine"], np.float64)
        prepared = PreparedCase(
            id=name,
            image=_mapped(files.image),
            classes=_mapped(files.classes) if files.classes else None,
            affine=np.array(note["affine"], np.float64),
            source=Geometry((first, second, third), affine, bool(source["placed"])),
            lowest=np.array(note["lowest"], np.float32),
        )
        return prepared, _mapped(files.voxels) if files.voxels else np.zeros(1, np.int64)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(
            f"Case '{name}': the prepared files in {files.image.parent} cannot be read ({error}); they were removed or "
            "damaged while they were in use. Start again with --resume: what is missing is prepared again."
        ) from error


def _held(prepared: PreparedCase) -> PreparedCase:
    classes = None if prepared.classes is None else np.array(prepared.classes)
    return replace(prepared, image=np.array(prepared.image), classes=classes)


def _find_voxels(classes: NDArray[Any], count: int, key: str) -> NDArray[np.int64]:
    """How many voxels are remembered of each class from 1 on, `count - 1` numbers, and then their flat indices."""
    generator = np.random.default_rng(derive_seed(0, "voxels", key))
    flat = classes.reshape(-1)
    found = []
    for label in range(1, count):
        places = np.flatnonzero(flat == label)
        if len(places) > MAX_VOXELS:
            places = np.sort(generator.choice(places, MAX_VOXELS, replace=False))
        found.append(places.astype(np.int64))
    return np.concatenate([np.array([len(found), *map(len, found)], np.int64), *found])


def _by_class(voxels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    labels = int(voxels[0])
    ends = 1 + labels + np.cumsum([0, *voxels[1 : 1 + labels]])
    return {label + 1: voxels[ends[label] : ends[label + 1]] for label in range(labels) if voxels[1 + label]}


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def _mapped(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
