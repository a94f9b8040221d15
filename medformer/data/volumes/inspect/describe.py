"""One pass over the files of a volume: what is wrong with it, its hashes, its statistics and its descriptor.

Everything that planning, the check, the leakage audit and the linear baselines know of a case is read here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case, image_hash
from medformer.data.inventory import Inventory, Record, case_files, take_inventory
from medformer.data.problems import Problem
from medformer.data.volumes.inspect.descriptors import descriptor, volume_features, voxel_hash
from medformer.data.volumes.inspect.facts import channel_facts, grid_remarks
from medformer.errors import DataError
from medformer.files import digest, sha256
from medformer.imaging.dicom_files import frame_of_reference
from medformer.imaging.geometry import (
    GRID_TOLERANCE,
    Geometry,
    Volume,
    corner_distance,
    label_counts,
    reorient,
    seems_an_image,
    times,
    turn_onto,
)
from medformer.imaging.volumes import is_segmentation, read_channels, read_labels, read_volume
from medformer.progress import Reporter

VERSION = 5
"""Of what `describe_volume` finds; part of the key of every cache of records."""

ROUNDING = 1e-3
"""Distance between two grids, in voxels, that is not mentioned: storing an affine as float32 or as a quaternion
causes it."""


def describe_volume(case: Case, *, masks: bool = True, features: bool = False) -> Record:
    """Read the images and the label map of a case once, one channel in memory at a time.

    Nothing here depends on what the data set declares (`DatasetInfo`); `volume_problems` compares with it.

    Args:
        case: Whose files to read.
        masks: Whether to read its label map.
        features: Whether to compute what linear baselines learn from.

    Returns:
        * hashes: `file`, `mask`, and `voxels` of all channels together.
        * facts: the grid of the first channel (`shape`, `affine`), `channels` (`ChannelFacts`, or only limits where the
          image and the label map do not fit each other), the voxels of every label value (`labels`), the names that
          the label map gives them (`names`), and the SHA-256 of each file by its path (`files`).
        * arrays: `descriptor` of the first channel, and with `features` the `features` (see `volume_features`).

        What could not be found because of a problem is absent.

    Raises:
        ResourceError: There is not enough memory for one volume.
    """
    labeled = masks and case.mask is not None
    made = _Description(case)
    geometry = made.read_images(labeled, features=features)
    if labeled:
        made.compare_mask(geometry)
    return Record(case.id, (*made.problems, *made.mask_problems), made.hashes, made.facts, made.arrays)


def inspect_volumes(
    cases: Sequence[Case],
    *,
    masks: bool = True,
    features: bool = False,
    known: Mapping[str, Record] | None = None,
    cache: Path | None = None,
    reporter: Reporter | None = None,
) -> Inventory:
    """Describe every case, or recall what an earlier pass found (see `take_inventory` and `describe_volume`).

    Args:
        cases: What to describe.
        masks: Whether to read label maps.
        features: Whether to compute what linear baselines learn from.
        known: What this process found of these cases before, with the same settings; they are not read again.
        cache: Folder that keeps the result.
        reporter: Receives one step per case.
    """
    describe = partial(describe_volume, masks=masks, features=features)
    return take_inventory(
        cases,
        describe if known is None else lambda case: known[case.id],
        files=case_files if masks else lambda case: {"file": case.images},
        cache=cache,
        settings=["volume", VERSION, masks, features],
        reporter=reporter,
    )


def file_hashes(records: Mapping[str, Record]) -> dict[Path, str]:
    """SHA-256 by path of every image file and label map that was read, so that nobody has to hash it again."""
    return {Path(path): value for record in records.values() for path, value in record.facts.get("files", {}).items()}


class _Description:
    """What has been found of one case so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.problems: list[Problem] = []
        self.mask_problems: list[Problem] = []
        self.hashes: dict[str, str] = {}
        self.facts: dict[str, Any] = {"files": {}}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.labels: Volume | None = None
        self._mask_axes = ""

    def read_images(self, labeled: bool, *, features: bool) -> Geometry | None:
        """Describe every channel, and read the label map on the grid of the first.

        Returns:
            The grid, or None where a channel cannot be read.
        """
        paths = self.case.images
        absent = [path for path in paths if not path.exists()]
        for path in absent:
            self._found("missing-image", path, "the image does not exist")
        if absent:
            self._read_mask(None, labeled)
            return None
        stored: list[str] = []
        voxels: list[str] = []
        channels: list[dict[str, Any]] = []
        vectors: list[NDArray[Any]] = []
        places: list[Path] = []
        first: Geometry | None = None
        for path in paths:
            try:
                for volume in read_channels(path, nonfinite="keep"):
                    places.append(path)
                    if first is None:
                        first = volume.geometry
                        self._read_mask(first, labeled)
                    if voxels:
                        codes = volume.geometry.axcodes
                        volume = turn_onto(volume, first)
                        faults = [*_faults(volume), *_grid_faults(first, volume.geometry, "the first channel", codes)]
                    else:
                        faults = list(_faults(volume))
                    voxels.append(voxel_hash(volume.array))
                    for reason, detail in faults:
                        self._found(reason, path, detail)
                    usable = not any(reason in ("not-finite", "size-mismatch") for reason, _ in faults)
                    channels.append(self._channel_facts(volume, usable, labeled))
                    if usable and path == paths[0] and len(voxels) == 1:
                        self.arrays["descriptor"] = descriptor(reorient(volume.array, volume.geometry.affine, "RAS")[0])
                    if usable and features:
                        vectors.append(volume_features(volume.array, volume.geometry))
                stored.append(volume.sha256)
                self._know(path, volume.sha256)
            except DataError as error:
                self._found("corrupt", path, str(error))
        if first is None:
            self._read_mask(None, labeled)
        self._hash_images(stored)
        if first is None or len(stored) < len(paths):
            return None
        self._compare_channels(voxels, channels, places)
        self.facts |= {"shape": list(first.shape), "affine": first.affine.tolist(), "channels": channels}
        self.hashes["voxels"] = voxels[0] if len(voxels) == 1 else hashlib.sha256("".join(voxels).encode()).hexdigest()
        if len(vectors) == len(channels):
            self.arrays["features"] = np.concatenate(vectors)
        return first

    def _channel_facts(self, volume: Volume, usable: bool, labeled: bool) -> dict[str, Any]:
        """The facts of a channel, or only its limits where it or the label map does not fit."""
        labels = self.labels
        fits = not labeled if labels is None else labels.array.shape == volume.array.shape
        if usable and fits:
            return asdict(channel_facts(volume.array, None if labels is None else labels.array > 0))
        return dict(zip(("minimum", "maximum"), _finite_limits(volume.array), strict=True))

    def _hash_images(self, stored: Sequence[str]) -> None:
        """Hash the files as `image_hash` does, from the hashes of those that were read."""
        paths = self.case.images
        if len(stored) == len(paths) and all(stored):
            self.hashes["file"] = stored[0] if len(paths) == 1 else digest(list(stored))
        else:
            with suppress(OSError):
                self.hashes["file"] = image_hash(paths)
                if len(paths) == 1:
                    self._know(paths[0], self.hashes["file"])
        if self.case.sha256 and self.hashes.get("file", self.case.sha256) != self.case.sha256:
            self._found("changed", paths[0], "its hash differs from the manifest's; prepare again")

    def _compare_channels(
        self, voxels: Sequence[str], channels: Sequence[Mapping[str, Any]], places: Sequence[Path]
    ) -> None:
        if len(set(voxels)) < len(voxels):
            self._found("wrong-channels", self.case.images[0], "two channels hold the same voxels")
        constant = [channel["minimum"] == channel["maximum"] for channel in channels]
        if all(constant):
            value = max(abs(channels[0]["minimum"]), abs(channels[0]["maximum"]))
            self._found("constant-image", self.case.images[0], f"every voxel is {value:g}")
            return
        for number, (path, is_constant) in enumerate(zip(places, constant, strict=True), start=1):
            if is_constant:
                self._found("constant-channel", path, f"channel {number}" if places.count(path) > 1 else "")

    def _read_mask(self, image: Geometry | None, labeled: bool) -> None:
        """Read the label map if there is one, turned or placed onto the grid of the image."""
        mask = self.case.mask
        if mask is None or not labeled:
            return
        if not mask.exists():
            self._mask_found("missing-mask", "the label map does not exist")
            return
        segmentation = is_segmentation(mask)
        series = self.case.required_image()
        try:
            labels = read_labels(mask, image if segmentation else None)
            frames = [frame_of_reference(path) for path in (mask, series)] if segmentation and series.is_dir() else []
        except DataError as error:
            self._mask_found("fractional-labels" if _is_image(mask) else "corrupt", str(error))
            if mask.is_file():
                with suppress(OSError):
                    self.hashes["mask"] = sha256(mask)
            return
        if all(frames) and len(set(frames)) > 1:
            self._mask_found(
                "affine-mismatch", "its frame of reference is not that of the series: it is of another scan"
            )
        self._mask_axes = labels.geometry.axcodes
        self.labels = labels if image is None else turn_onto(labels, image)
        self.hashes["mask"] = labels.sha256 or sha256(mask)
        self._know(mask, self.hashes["mask"])

    def compare_mask(self, image: Geometry | None) -> None:
        """Compare the label map with the image and with the manifest, and count its labels."""
        labels = self.labels
        file_hash = self.hashes.get("mask", "")
        if file_hash and file_hash == self.hashes.get("file"):
            self.mask_problems.clear()
            self._mask_found("mask-is-image", "image and label map are the same file")
        elif file_hash and self.case.covariates.get("mask_sha256", file_hash) != file_hash:
            self.mask_problems.clear()
            self._mask_found("changed", "its hash differs from the manifest's; prepare again")
        elif labels is not None:
            if labels.remark:
                self._mask_found("forms-differ", labels.remark)
            if image is not None:
                for reason, detail in _grid_faults(image, labels.geometry, "the image", self._mask_axes):
                    self._mask_found(reason, detail)
            counts = label_counts(labels.array)
            self.facts["labels"] = {str(value): count for value, count in counts.items()}
            self.facts["names"] = {str(value): name for value, name in labels.names.items()}
            if detail := seems_an_image(labels.array, len(counts)):
                self._mask_found("mask-is-image", detail)
            elif counts.get(0, 0) == 0:
                self._mask_found("full-mask", "every voxel has a label; expected some background (0)")

    def _know(self, path: Path, file_hash: str) -> None:
        if file_hash:
            self.facts["files"][str(path)] = file_hash

    def _found(self, reason: str, path: Path, detail: str) -> None:
        problem = Problem(self.case.id, str(path), reason, detail)
        if problem not in self.problems:  # what one file says once is not said for each of its channels
            self.problems.append(problem)

    def _mask_found(self, reason: str, detail: str) -> None:
        self.mask_problems.append(Problem(self.case.id, str(self.case.mask), reason, detail))


def _finite_limits(array: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value; zeros where there is none."""
    low, high = float(array.min()), float(array.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _faults(volume: Volume) -> Iterator[tuple[str, str]]:
    """What is wrong with one image by itself."""
    bad = sum(int(np.count_nonzero(~np.isfinite(volume.array[:, :, plane]))) for plane in range(volume.array.shape[2]))
    if bad:
        yield "not-finite", f"{bad:,} of {volume.array.size:,} voxels are NaN or infinite; expected none"
    yield from grid_remarks(volume)


def _grid_faults(first: Geometry, second: Geometry, other: str, axcodes: str) -> Iterator[tuple[str, str]]:
    """How the second grid differs from the first, which is the one of `other`.

    Args:
        first: One grid.
        second: The other one, with its axes turned as those of the first where that is possible.
        other: What has the first grid.
        axcodes: Where the axes of the second pointed before.
    """
    if first.shape != second.shape:
        yield "size-mismatch", f"it has {times(second.shape)} voxels, {other} has {times(first.shape)}"
        return
    distance = corner_distance(first, second) / min(first.spacing)
    if distance <= ROUNDING:
        return
    apart = f"a corner lies {distance:.3g} voxels from where {other} puts it"
    if distance <= GRID_TOLERANCE:
        yield "affine-rounding", f"{apart}; up to {GRID_TOLERANCE:g} counts as rounding"
    elif first.axcodes != second.axcodes:
        detail = f"its axes point to {second.axcodes}, those of {other} to {first.axcodes}"
        if not second.placed:
            detail += ". They are not turned, because its header does not state where it lies (neither sform nor qform)"
        yield "orientation-mismatch", detail
    elif first.axcodes != axcodes:
        yield (
            "orientation-mismatch",
            f"its axes point to {axcodes}, those of {other} to {first.axcodes}. With its axes turned, {apart}; "
            f"expected at most {GRID_TOLERANCE:g}: one of the two headers is wrong, or they show different regions",
        )
    else:
        yield "affine-mismatch", f"{apart}; expected at most {GRID_TOLERANCE:g}"


def _is_image(path: Path) -> bool:
    """Whether a file that holds no labels can be read as an image all the same."""
    try:
        read_volume(path)
    except DataError:
        return False
    return True
