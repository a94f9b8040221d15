"""What planning needs to know about each case: its grid, its intensities, how many voxels each label has.

The numbers come from the records of `describe_volume`, case by case. Whoever plans brings them together, so that a fold
plans from its own training cases although every file is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.inventory import Record
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import DataError
from medformer.imaging.geometry import Axes, Geometry, Volume, reorient, times

QUANTILES = 400
"""How many values stand for a case's foreground: finer than the 0.5th percentile that clipping needs."""

SAMPLE = 200_000
"""Foreground voxels of a case that its quantiles are taken from, evenly spread; more would not change them."""

MEAN, SPREAD = "mean", "standard deviation"
"""What is compared where intensities have a unit, as in CT; elsewhere each scan has a scale of its own."""

_AXES = ("from left to right", "from back to front", "from foot to head")
_PART = 1 << 20


@dataclass(frozen=True)
class ChannelFacts:
    """The intensities of one channel of one case, in the image's own units.

    Attributes:
        minimum: Over the whole image.
        maximum: Over the whole image.
        mean: Over the whole image.
        std: Over the whole image.
        foreground: `QUANTILES` values at evenly spaced ranks of the labeled voxels, ascending; without labels, of the
            voxels above the minimum. Empty when there are none.
        foreground_mean: Over the same voxels; 0 when there are none.
        foreground_std: Over the same voxels; 0 when there are none.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    foreground: tuple[float, ...]
    foreground_mean: float
    foreground_std: float


@dataclass(frozen=True)
class CaseFacts:
    """What planning needs of one case.

    Attributes:
        id: The case.
        shape: Voxels per axis, in the orientation of planning.
        spacing: Voxel size per axis, mm.
        channels: One entry for each channel.
        labels: Voxels of each declared label.
        voxel_mm3: Volume of a voxel.
    """

    id: str
    shape: Axes
    spacing: tuple[float, float, float]
    channels: tuple[ChannelFacts, ...]
    labels: Mapping[int, int]
    voxel_mm3: float


def case_facts(record: Record, info: DatasetInfo, orientation: str = "RAS") -> CaseFacts:
    """The facts of a case, seen from one orientation.

    Raises:
        DataError: A file of the case cannot be read, holds NaN or infinity, or has another shape than the others.
    """
    content = record.facts
    if not all("mean" in channel for channel in content.get("channels", ({},))):
        reasons = "; ".join(str(problem) for problem in record.problems if problem.severity == "error")
        raise DataError(f"Case '{record.id}' cannot be used: {reasons}. Correct its files, or leave the case out.")
    empty = np.broadcast_to(np.uint8(0), content["shape"])
    turned, affine = reorient(empty, np.array(content["affine"]), orientation)
    x, y, z = (int(n) for n in turned.shape)
    a, b, c = (float(mm) for mm in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))
    counts = content.get("labels")
    return CaseFacts(
        id=record.id,
        shape=(x, y, z),
        spacing=(a, b, c),
        channels=tuple(_channel(channel) for channel in content["channels"]),
        labels={} if counts is None else {value: counts.get(str(value), 0) for value, _ in info.labels},
        voxel_mm3=float(abs(np.linalg.det(np.asarray(affine)[:3, :3]))),
    )


def grid_remarks(volume: Volume, *, told: bool = False) -> Iterator[tuple[str, str]]:
    """What is unusual about where the voxels of an image lie: a reason and a detail for each.

    Args:
        volume: The image.
        told: Whether somebody said how its axes lie, where its header does not.
    """
    if not (volume.geometry.placed or told):
        yield "no-affine", "neither sform nor qform is set, so left and right are not known and are guessed"
    if volume.remark:
        yield "forms-differ", volume.remark
    if 1 in volume.geometry.shape:
        yield "one-slice", f"its shape is {times(volume.geometry.shape)}; the missing depth is padded"


def volume_traits(geometry: Geometry, channels: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What new volumes are compared with training volumes by; see `medformer.data.training_range`.

    Args:
        geometry: Of the volume.
        channels: `minimum`, `maximum`, `mean` and `std` of each channel, of the whole image.
    """
    found: dict[str, float] = {}
    axes = [_AXES["RLAPSI".index(code) // 2] for code in geometry.axcodes]
    for name, size, count in sorted(zip(axes, geometry.spacing, geometry.shape, strict=True)):
        found[f"voxel size {name} in mm"] = size
        found[f"extent {name} in mm"] = size * count
    for number, facts in enumerate(channels, start=1):
        this = f"of channel {number}" if len(channels) > 1 else "of the image"
        found |= {f"{MEAN} {this}": facts["mean"], f"{SPREAD} {this}": facts["std"]}
        if facts["std"] > 1e-6 * abs(facts["mean"]):
            found[f"highest value {this} in standard deviations"] = (facts["maximum"] - facts["mean"]) / facts["std"]
            found[f"lowest value {this} in standard deviations"] = (facts["minimum"] - facts["mean"]) / facts["std"]
    return found


def whole_image(array: NDArray[Any]) -> dict[str, float]:
    """The facts of a channel (X, Y, Z) that `volume_traits` takes."""
    mean, std = _moments(array.ravel(order="K"))
    return {"minimum": float(array.min()), "maximum": float(array.max()), "mean": mean, "std": std}


def channel_facts(image: NDArray[Any], labeled: NDArray[np.bool_] | None) -> ChannelFacts:
    """Describe the intensities of a channel (X, Y, Z), whose labeled voxels are given where there is a label map."""
    low = float(image.min())
    values = image[labeled if labeled is not None else image > low]
    mean, std = _moments(image.ravel(order="K"))
    foreground_mean, foreground_std = _moments(values)
    sample = values[:: max(1, -(-values.size // SAMPLE))]
    ranks = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return ChannelFacts(
        minimum=low,
        maximum=float(image.max()),
        mean=mean,
        std=std,
        foreground=tuple(float(value) for value in np.quantile(sample, ranks)) if values.size else (),
        foreground_mean=foreground_mean,
        foreground_std=foreground_std,
    )


def _channel(content: Mapping[str, Any]) -> ChannelFacts:
    known = {name: value for name, value in content.items() if name in ChannelFacts.__dataclass_fields__}
    return ChannelFacts(**{**known, "foreground": tuple(known["foreground"])})


def _moments(values: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation in double precision, part by part: NumPy's would copy a scan at twice its size."""
    if not values.size:
        return 0.0, 0.0
    mean = float(values.mean(dtype=np.float64))
    parts = (values[start : start + _PART].astype(np.float64) - mean for start in range(0, values.size, _PART))
    return mean, float(np.sqrt(sum(float(part @ part) for part in parts) / values.size))
