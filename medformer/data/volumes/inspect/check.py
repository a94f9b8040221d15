"""Reading every volume and saying everything that is wrong with each of them, before hours are spent on training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case, image_hash
from medformer.data.problems import Problem
from medformer.data.volumes.inspect.check_dataset import DatasetCheck
from medformer.data.volumes.inspect.descriptors import voxel_hash
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.data.volumes.read.label_values import present_values
from medformer.errors import DataError
from medformer.files import sha256
from medformer.imaging.geometry import GRID_TOLERANCE, Geometry, corner_distance
from medformer.imaging.volumes import Volume, read_labels, read_volume
from medformer.progress import Reporter, SilentReporter

ROUNDING = 1e-3
"""The same, below which nothing is said: what storing an affine as float32 or as a quaternion does to it."""


def check_volumes(
    cases: Sequence[Case],
    info: DatasetInfo,
    *,
    target: Literal["segmentation", "classification"] = "segmentation",
    reporter: Reporter | None = None,
) -> list[Problem]:
    """Read every image and label map once, and list every problem of every case.

    Args:
        cases: What to check.
        info: What they are meant to be.
        target: Segmentation needs label maps; classification does not look at them and needs classes.
        reporter: Told about the progress.

    Returns:
        Problems in the order of the cases; those that show only when all cases are seen follow. See
        `problems.REASONS` for the codes.

    Raises:
        ResourceError: There is not enough memory for one case.
    """
    reporter = reporter or SilentReporter()
    reporter.start("checking", len(cases))
    problems: list[Problem] = []
    whole = DatasetCheck(info)
    try:
        for case in cases:
            image = _check_images(case, info)
            problems.extend(image.problems)
            if image.channels:
                first = image.channels[0]
                whole.add_image(case, first.geometry, [channel.largest for channel in image.channels])
                whole.add_contents(case, image.file_hash, [channel.voxel_hash for channel in image.channels])
            if target == "segmentation":
                problems.extend(_check_labels(case, image, info, whole))
            else:
                problems.extend(_check_class(case))
            reporter.advance()
    finally:
        reporter.finish()
    return [*problems, *whole.problems(labels=target == "segmentation")]


@dataclass(frozen=True)
class _Channel:
    geometry: Geometry
    largest: float
    constant: bool
    voxel_hash: str


@dataclass
class _CheckedImage:
    """What reading the channels of a case gave; no channels where a file could not be read."""

    problems: list[Problem] = field(default_factory=list)
    channels: list[_Channel] = field(default_factory=list)
    file_hash: str = ""


def _check_images(case: Case, info: DatasetInfo) -> _CheckedImage:
    checked = _CheckedImage()

    def found(reason: str, path: Path, detail: str) -> None:
        checked.problems.append(Problem(case.id, str(path), reason, detail))

    if len(case.images) != len(info.channels):
        names = ", ".join(info.channels)
        found(
            "wrong-channels",
            case.required_image(),
            f"it has {len(case.images)}; expected {len(info.channels)} ({names})",
        )
    absent = [path for path in case.images if not path.exists()]
    for path in absent:
        found("missing-image", path, "the image does not exist")
    if absent:
        return checked
    checked.file_hash = image_hash(case.images)
    if case.sha256 and checked.file_hash != case.sha256:
        found("changed", case.required_image(), "its hash differs from the manifest's; prepare again")
    channels = []
    for path in case.images:
        try:
            volume = read_volume(path, nonfinite="keep")
        except DataError as error:
            found("corrupt", path, str(error))
            continue
        channels.append(_channel(volume))
        for reason, detail in _oddities(volume):
            found(reason, path, detail)
        if len(channels) > 1:
            for reason, detail in _grid_faults(channels[0].geometry, volume.geometry, "the first channel"):
                found(reason, path, detail)
    if len(channels) < len(case.images):
        return checked
    hashes = [channel.voxel_hash for channel in channels]
    if len(set(hashes)) < len(hashes):
        found("wrong-channels", case.required_image(), "two channels hold the same voxels")
    constant = [name for name, channel in zip(case.images, channels, strict=True) if channel.constant]
    if len(constant) == len(channels):
        found("constant-image", case.required_image(), f"every voxel is {channels[0].largest:g}")
    else:
        for path in constant:
            found("constant-channel", path, "")
    checked.channels = channels
    return checked


def _channel(volume: Volume) -> _Channel:
    low, high = _limits(volume.array)
    return _Channel(volume.geometry, max(abs(low), abs(high)), low == high, voxel_hash(volume.array))


def _limits(array: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest finite value; zeros where there is none."""
    low, high = float(array.min()), float(array.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _oddities(volume: Volume) -> Iterator[tuple[str, str]]:
    """What is wrong with one image by itself."""
    bad = sum(int(np.count_nonzero(~np.isfinite(volume.array[:, :, plane]))) for plane in range(volume.array.shape[2]))
    if bad:
        yield "not-finite", f"{bad:,} of {volume.array.size:,} voxels are NaN or infinite; expected none"
    if not volume.geometry.placed:
        yield "no-affine", "neither sform nor qform is set, so that left and right are not known; they are guessed"
    if 1 in volume.geometry.shape:
        yield "one-slice", f"its shape is {_sizes(volume.geometry)}; the missing depth is padded"


def _grid_faults(first: Geometry, second: Geometry, other: str) -> Iterator[tuple[str, str]]:
    """How the second grid differs from the first, which is the one of `other`."""
    if first.shape != second.shape:
        yield "size-mismatch", f"it has {_sizes(second)} voxels, {other} has {_sizes(first)}"
        return
    distance = corner_distance(first, second) / min(first.spacing)
    if distance <= ROUNDING:
        return
    apart = f"a corner lies {distance:.3g} voxels from where {other} puts it"
    if distance <= GRID_TOLERANCE:
        yield "affine-rounding", f"{apart}; up to {GRID_TOLERANCE:g} is taken for rounding"
    elif first.axcodes != second.axcodes:
        yield "orientation-mismatch", f"its axes point to {second.axcodes}, those of {other} to {first.axcodes}"
    else:
        yield "affine-mismatch", f"{apart}; expected at most {GRID_TOLERANCE:g}"


def _check_labels(case: Case, image: _CheckedImage, info: DatasetInfo, whole: DatasetCheck) -> Iterator[Problem]:
    mask = case.mask
    if mask is None or not mask.exists():
        detail = "the manifest gives none" if mask is None else "the label map does not exist"
        yield Problem(case.id, str(mask or case.image), "missing-mask", detail)
        return
    file_hash = sha256(mask) if mask.is_file() else ""
    if file_hash and file_hash == image.file_hash:
        yield Problem(case.id, str(mask), "mask-is-image", "image and label map are the same file")
        return
    if file_hash and case.covariates.get("mask_sha256", file_hash) != file_hash:
        yield Problem(case.id, str(mask), "changed", "its hash differs from the manifest's; prepare again")
    try:
        labels = read_labels(mask)
    except DataError as error:
        yield Problem(case.id, str(mask), "fractional-labels" if _is_image(mask) else "corrupt", str(error))
        return
    if image.channels:
        for reason, detail in _grid_faults(image.channels[0].geometry, labels.geometry, "the image"):
            yield Problem(case.id, str(mask), reason, detail)
    values = present_values(labels.array)
    whole.add_labels(values)
    declared = {0, *(value for value, _ in info.labels)}
    undeclared = [value for value in values if value not in declared]
    if undeclared:
        shown = ", ".join(str(value) for value in undeclared[:10]) + (", ..." if len(undeclared) > 10 else "")
        names = ", ".join(f"{value} {name}" for value, name in info.labels) or "none"
        yield Problem(case.id, str(mask), "undeclared-label", f"it holds {shown}; expected 0 and {names}")
    elif values == [0]:
        yield Problem(case.id, str(mask), "empty-mask", "every voxel is background")


def _is_image(path: Path) -> bool:
    """Whether a file that holds no labels can be read as an image all the same."""
    try:
        read_volume(path)
    except DataError:
        return False
    return True


def _check_class(case: Case) -> Iterable[Problem]:
    try:
        case.required_label()
    except DataError as error:
        yield Problem(case.id, str(case.image), "no-class", str(error))


def _sizes(geometry: Geometry) -> str:
    return " x ".join(str(size) for size in geometry.shape)
