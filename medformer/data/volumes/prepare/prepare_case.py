"""One case as a network sees it: turned to the plan's orientation, at its spacing, with comparable intensities.

The order is: read, scale the intensities on the scan's own grid (so that a clipped metal implant cannot ring into its
surroundings, and a mean does not depend on the plan's spacing), turn, resample. Training, validation and prediction all
come through here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.problems import Problem
from medformer.data.training_range import TrainingRange
from medformer.data.volumes.inspect.check import SPACING_RATIO
from medformer.data.volumes.inspect.descriptors import voxel_hash
from medformer.data.volumes.inspect.facts import MEAN, SPREAD, grid_remarks, volume_traits, whole_image
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.errors import DataError, counted
from medformer.imaging.geometry import GRID_TOLERANCE, Axes, Geometry, Volume, reorient, same_grid, turn_onto
from medformer.imaging.resample import Order, resample, resample_labels, resampled_affine, resampled_shape
from medformer.imaging.volumes import count_channels, read_channels, read_labels

ORDER: Order = 3
"""Of the interpolation of images. On 20 hippocampus scans of 1 mm (z-scored), cubic brings slices of 2 mm back with a
root mean square error of .222 (linear .247), voxels of 2 mm with .313 (.361), and is as fast."""


@dataclass(frozen=True)
class PreparedCase:
    """A case on the plan's grid.

    Attributes:
        id: Name of the case.
        image: float32 (C, *S).
        classes: (*S), 0 background and i + 1 for `plan.labels[i]`, uint8 or, with more than 254 labels, uint16; None
            when labels were not asked for.
        affine: From voxels of this grid to RAS mm, 4 x 4.
        source: The grid of the case's files.
        lowest: (C,), the smallest value of each channel, which fills what lies outside of the volume.
    """

    id: str
    image: NDArray[np.float32]
    classes: NDArray[np.unsignedinteger[Any]] | None
    affine: NDArray[np.float64]
    source: Geometry
    lowest: NDArray[np.float32]

    @property
    def shape(self) -> Axes:
        """Voxels per axis, S."""
        first, second, third = self.image.shape[1:]
        return first, second, third


@dataclass(frozen=True)
class HeldScan:
    """A scan that is in memory already, and is never written to.

    Attributes:
        id: What messages call it.
        channels: On one grid; their arrays are read-only, finite, float32.
    """

    id: str
    channels: tuple[Volume, ...]

    @property
    def images(self) -> tuple[Path, ...]:
        """The one place that all channels come from."""
        return (Path(self.id),)


Scan = Case | HeldScan | Sequence[Path]
"""A case, a scan in memory, or the files of a scan's channels."""


def prepare_image(case: Scan, plan: VolumePlan) -> PreparedCase:
    """Read the image of a scan, and bring it to a plan's grid, without classes.

    Raises:
        DataError: A file cannot be read; there is another number of channels than in the plan; or the files lie on
            different grids.
    """
    channels: list[NDArray[np.float32]] = []
    for volume, intensity in zip(_channels(case, len(plan.intensity)), plan.intensity, strict=True):
        source = volume.geometry
        scaled = scale_intensity(np.require(volume.array, np.float32, "W"), intensity)
        channel, affine = _onto_grid(scaled, source, plan, None)
        channels.append(channel)
    image = channels[0][np.newaxis] if len(channels) == 1 else np.stack(channels)
    return PreparedCase(
        id=case.id if isinstance(case, (Case, HeldScan)) else str(case[0]),
        image=np.ascontiguousarray(image),
        classes=None,
        affine=affine,
        source=source,
        lowest=image.min(axis=(1, 2, 3)),
    )


def check_image(case: Case | HeldScan, plan: VolumePlan, trained_on: TrainingRange | None = None) -> list[Problem]:
    """Read the image of a scan as `prepare_image` does, keep nothing, and say what is unlike the training cases.

    Args:
        case: The scan.
        plan: That the network was trained under.
        trained_on: The range of its training cases, where it is known.

    Returns:
        A warning for a constant channel, for what its header leaves open, for voxels of far another size, and for what
        lies outside the range.

    Raises:
        DataError: As `prepare_image`, or two channels hold the same voxels.
    """
    problems: list[Problem] = []
    channels: list[dict[str, float]] = []
    known: dict[str, str] = {}
    trained = {_axis(code): size for code, size in zip(plan.orientation, plan.spacing, strict=True)}
    for number, volume in enumerate(_channels(case, len(plan.intensity)), start=1):
        path = volume.path
        this = f"{path}, channel {number}" if number > len(case.images) or len(case.images) == 1 else str(path)
        same = known.setdefault(voxel_hash(volume.array), this)
        if same != this:
            raise DataError(f"Case '{case.id}': {same} and {this} hold the same voxels; expected different channels.")
        channels.append(whole_image(volume.array))
        if channels[-1]["minimum"] == channels[-1]["maximum"]:
            detail = f"every voxel is {volume.array.flat[0]:g}"
            problems.append(Problem(case.id, str(path), "constant-channel", detail))
        if number > 1:
            continue
        grid = volume.geometry
        # Who gives an array with its spacing has said how it lies.
        remarks = grid_remarks(volume, told=isinstance(case, HeldScan))
        problems += [Problem(case.id, str(path), reason, detail) for reason, detail in remarks]
        sizes = volume.geometry.spacing
        ratios = [size / trained[_axis(code)] for code, size in zip(volume.geometry.axcodes, sizes, strict=True)]
        if max(ratios) > SPACING_RATIO or min(ratios) < 1 / SPACING_RATIO:
            shown, usual = (" x ".join(f"{size:.3g}" for size in some) for some in (sizes, plan.spacing))
            detail = f"its voxels are {shown} mm ({volume.geometry.axcodes}); the network was trained on {usual} mm "
            detail += f"({plan.orientation}). It may find nothing here, and take long"
            problems.append(Problem(case.id, str(path), "odd-spacing", detail))
    if trained_on is not None:
        traits = volume_traits(grid, channels)
        for number, intensity in enumerate(plan.intensity, start=1):
            if intensity.scheme != "ct":
                this = f"of channel {number}" if len(channels) > 1 else "of the image"
                for name in (MEAN, SPREAD):
                    traits.pop(f"{name} {this}", None)
        problems += trained_on.problems(case.id, case.images[0], traits)
    return problems


def _axis(code: str) -> int:
    """Which anatomical axis a code names: 0 from left to right, 1 from back to front, 2 from foot to head."""
    return "RLAPSI".index(code) // 2


def _channels(case: Scan, count: int) -> Iterator[Volume]:
    """Read the channels of a scan one after the other, all of them on the grid of the first."""
    name, paths = (case.id, case.images) if isinstance(case, (Case, HeldScan)) else (str(case[0]), tuple(case))

    def other_number(found: int) -> DataError:
        return DataError(
            f"Case '{name}' has {counted(found, 'channel')} ({', '.join(path.name for path in paths)}); expected "
            f"{count}. Give it the channels that the training cases have, in their order."
        )

    if isinstance(case, HeldScan):
        if len(case.channels) != count:
            raise other_number(len(case.channels))
        yield from case.channels
        return
    if len(paths) > count:
        raise other_number(len(paths))
    grid: Geometry | None = None
    number = 0
    for path in paths:
        for volume in read_channels(path):
            number += 1
            if number > count:
                raise other_number(count_channels(paths))
            grid = grid or volume.geometry
            turned = turn_onto(volume, grid)
            _require_same_grid(name, paths[0], grid, path, turned.geometry)
            yield replace(turned, geometry=grid)
    if number < count:
        raise other_number(number)


def prepare_classes(case: Case, plan: VolumePlan, source: Geometry) -> NDArray[np.unsignedinteger[Any]]:
    """Read the label map of a case whose image has the geometry `source`, and bring it to a plan's grid.

    Raises:
        DataError: There is none, it cannot be read, it lies on another grid, or has a value that is not in the plan.
    """
    path = case.required_mask()
    volume = read_labels(path, source)
    _require_same_grid(case.id, case.required_image(), source, path, volume.geometry)
    classes = classes_of(volume.array, plan.labels, f"Case '{case.id}': {path}")
    return np.ascontiguousarray(_onto_grid(classes, source, plan, range(plan.classes))[0])


def scale_intensity(array: NDArray[np.float32], intensity: Intensity) -> NDArray[np.float32]:
    """Make the values of one channel comparable, in place. An image of one value becomes 0 everywhere."""
    if intensity.scheme == "ct":
        np.clip(array, intensity.low, intensity.high, out=array)
        mean, deviation = intensity.mean, intensity.std
    else:
        mean, deviation = _moments(array)
    array -= np.float32(mean)
    # Rounding alone gives an image of one value a deviation of up to a millionth of that value.
    if deviation > 1e-6 * abs(mean):
        array /= np.float32(deviation)
    return array


def classes_of(
    labels: NDArray[np.integer[Any]], known: Sequence[tuple[int, str]], what: str
) -> NDArray[np.unsignedinteger[Any]]:
    """Replace label values by classes: 0 background, i + 1 for `known[i]`.

    Raises:
        DataError: A value is not in `known`; the message begins with `what`.
    """
    values = [0, *(value for value, _ in known)]
    dtype = np.uint8 if len(values) <= 255 else np.uint16
    unknown = np.iinfo(dtype).max
    lowest, highest = int(labels.min()), int(labels.max())
    table = np.full(max(values) + 1, unknown, dtype)
    table[values] = np.arange(len(values))
    if lowest >= 0 and highest < len(table):
        classes = table[labels]
        if not (classes == unknown).any():
            return classes
    surplus = sorted({int(value) for value in np.unique(labels)} - set(values))
    listed = ", ".join(map(str, surplus[:5])) + (", ..." if len(surplus) > 5 else "")
    declared = ", ".join(f"{value} {name}" for value, name in known)
    raise DataError(
        f"{what} has label values that are not declared: {listed}; expected 0 (background), {declared}. "
        "Declare them in the data set's description, or correct the label map."
    )


def _onto_grid(
    array: NDArray[Any], source: Geometry, plan: VolumePlan, values: Sequence[int] | None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Turn and resample an image, or a label map with these values; returns its affine too."""
    turned, affine = reorient(array, source.affine, plan.orientation)
    old = (turned.shape[0], turned.shape[1], turned.shape[2])
    shape = resampled_shape(old, Geometry(old, affine).spacing, plan.spacing)
    if values is None:
        moved = resample(turned, shape, order=ORDER)
    else:
        moved = resample_labels(turned, shape, values).astype(array.dtype, copy=False)
    return moved, resampled_affine(affine, old, shape)


def _require_same_grid(name: str, first: Path, grid: Geometry, other: Path, found: Geometry) -> None:
    reason = same_grid(grid, found, tolerance_mm=GRID_TOLERANCE * min(grid.spacing))
    if reason:
        raise DataError(
            f"Case '{name}': {other} does not lie on the grid of {first}: {reason}. "
            "All files of a case must lie on one grid, in whatever direction its axes run; resample one onto the other."
        )


def _moments(array: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation in double precision, plane by plane: a copy of a whole scan could be gigabytes."""
    planes = array if array.flags.c_contiguous else array.T
    mean = sum(float(plane.sum(dtype=np.float64)) for plane in planes) / array.size
    variance = sum(float(np.square(plane - mean, dtype=np.float64).sum()) for plane in planes) / array.size
    return mean, float(np.sqrt(variance))
