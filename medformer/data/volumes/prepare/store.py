"""Prepared cases on disk, made once and shared by folds, by a resumed run and by loader processes.

In the store's folder lie, for each case, `<key>.image.npy` with `<key>.json` (where its voxels are), and
`<key>.classes.npy` with `<key>.voxels.npy` (where its labels are). A key is the hash of the case's files and of those
parts of the plan that decide what the arrays hold, so folds whose plans agree in these share the files, and a file
that changed is prepared again. The second file of each pair is written last: without it the pair counts as missing.
Everything is memory-mapped; what fits in a budget is held in memory besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case, image_hash
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
            DataError: A case cannot be prepared; see `prepare_image` and `prepare_classes`.
            ResourceError: The prepared files cannot be written.
        """
        self.folder = Path(folder)
        self.plan = plan
        self.memory_gb = memory_gb
        self._hashes = dict(hashes or {})
        self._keys: dict[str, tuple[str, str]] = {}
        self._open: dict[str, PreparedCase] = {}
        self._voxels: dict[str, NDArray[np.int64]] = {}
        left = memory_gb * 1e9
        for case in (reporter or SilentReporter()).track(cases, "Preparing volumes"):
            keys = self._keys[case.id] = self._made(case, labels)
            prepared, voxels = self._load(case.id, keys)
            size = prepared.image.nbytes + (0 if prepared.classes is None else prepared.classes.nbytes)
            if size <= left:
                left -= size
                prepared = _held(prepared)
            self._open[case.id] = prepared
            self._voxels[case.id] = voxels

    def __getitem__(self, name: str) -> PreparedCase:
        """Give a case; its arrays must not be written to.

        Raises:
            DataError: It is not among the cases, or its prepared files were removed or damaged meanwhile.
        """
        if name not in self._keys:
            raise DataError(f"Case '{name}' is not among the {len(self._keys)} prepared ones in {self.folder}.")
        if name not in self._open:
            self._open[name], self._voxels[name] = self._load(name, self._keys[name])
        return self._open[name]

    def voxels(self, name: str) -> dict[int, NDArray[np.int64]]:
        """Where a case's labels are: for each class that it has, flat indices of at most `MAX_VOXELS` of its voxels."""
        self[name]
        return _by_class(self._voxels[name])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_voxels": {}}

    def _made(self, case: Case, labels: bool) -> tuple[str, str]:
        """Prepare what is not there yet; returns the keys of the image and of its classes, '' without labels."""
        plan = self.plan
        grid = [FORMAT, ORDER, plan.orientation, plan.spacing, [self._hash(path) for path in case.images]]
        image_key = digest([*grid, plan.to_json()["intensity"]])[:32]
        if not self._complete(image_key, ""):
            prepared = prepare_image(case, plan)
            _save(self._path(image_key, "image.npy"), prepared.image)
            write_json(self._path(image_key, "json"), _note(prepared))
        if not labels:
            return image_key, ""
        key = digest([*grid, plan.labels, self._hash(case.required_mask())])[:32]
        if not self._complete(image_key, key):
            classes = prepare_classes(case, plan, self._load(case.id, (image_key, ""))[0].source)
            _save(self._path(key, "classes.npy"), classes)
            _save(self._path(key, "voxels.npy"), _find_voxels(classes, plan.classes, key))
        return image_key, key

    def _path(self, key: str, ending: str) -> Path:
        return self.folder / f"{key}.{ending}"

    def _complete(self, image_key: str, key: str) -> bool:
        """Whether all of the files are there and undamaged, as far as their sizes show."""
        try:
            self._load("", (image_key, key))
        except DataError:
            return False
        return True

    def _load(self, name: str, keys: tuple[str, str]) -> tuple[PreparedCase, NDArray[np.int64]]:
        """Map a case into memory, and what `_find_voxels` found in it; `[0]` without labels."""
        image_key, key = keys
        try:
            note = read_json(self._path(image_key, "json"))
            source = note["source"]
            first, second, third = source["shape"]
            prepared = PreparedCase(
                id=name,
                image=_mapped(self._path(image_key, "image.npy")),
                classes=_mapped(self._path(key, "classes.npy")) if key else None,
                affine=np.array(note["affine"], np.float64),
                source=Geometry((first, second, third), np.array(source["affine"]), bool(source["placed"])),
                lowest=np.array(note["lowest"], np.float32),
            )
            return prepared, _mapped(self._path(key, "voxels.npy")) if key else np.zeros(1, np.int64)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise DataError(
                f"Case '{name}': the prepared files in {self.folder} cannot be read ({error}); they were removed or "
                "damaged while they were in use. Start again with --resume: what is missing is prepared again."
            ) from error

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
