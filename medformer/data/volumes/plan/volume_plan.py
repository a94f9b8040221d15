"""What is decided about volumes before a network sees them, as data and in words.

A plan is made from training cases alone (see `planning`), written beside the weights, and read again for prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.data.volumes.inspect.facts import CaseFacts
from medformer.data.volumes.read.dataset_file import shown_labels
from medformer.data.volumes.read.regions import Regions, membership
from medformer.errors import DataError
from medformer.files import write_json
from medformer.imaging.geometry import Axes, times
from medformer.progress import duration
from medformer.records import checked, read_record

FORMAT = "medformer-volume-plan/1"

_AGAIN = "Expected the plan that training wrote. Restore it from a copy, or train again."


@dataclass(frozen=True)
class Intensity:
    """How the values of one channel are made comparable.

    Attributes:
        scheme: `zscore`: each image by its own mean and standard deviation. `ct`: clipped to [low, high], then by the
            mean and standard deviation of the training cases' foreground.
        low: Of `ct`, in the image's units (HU).
        high: Of `ct`.
        mean: Of `ct`.
        std: Of `ct`.
    """

    scheme: Literal["zscore", "ct"] = "zscore"
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class VolumePlan:
    """One way of presenting volumes to a network.

    Attributes:
        spacing: Voxel size that every case is resampled to, mm per axis.
        intensity: One entry for each channel.
        labels: Value and name of each label in ascending order; class `i + 1` is `labels[i]`, class 0 background.
            Empty for classification.
        patch: Network input, voxels per axis.
        strides: Of the network's stem and of each downsampling, per axis.
        kernel_sizes: Of each stage, per axis.
        batch_size: Patches per step.
        orientation: Axis codes that every case is turned to.
        memory_bytes: Expected peak memory of training; 0 when it was not estimated.
        notes: What a reader should know about how this came about.
        regions: Overlapping regions of labels that the network answers for, each by itself; empty where it answers
            with one of the labels.
    """

    spacing: tuple[float, float, float]
    intensity: tuple[Intensity, ...]
    labels: tuple[tuple[int, str], ...]
    patch: Axes
    strides: tuple[Axes, ...]
    kernel_sizes: tuple[Axes, ...]
    batch_size: int
    orientation: str = "RAS"
    memory_bytes: int = 0
    notes: tuple[str, ...] = ()
    regions: Regions = ()

    def __post_init__(self) -> None:
        sizes = (*self.spacing, *self.patch, *sum((*self.strides, *self.kernel_sizes), ()), self.batch_size)
        if min(sizes) <= 0 or len(self.strides) != len(self.kernel_sizes) or not self.intensity:
            raise ValueError("sizes above 0, strides and kernels for each stage, and an intensity for each channel")

    @property
    def classes(self) -> int:
        """Number of labels and the background."""
        return len(self.labels) + 1

    @property
    def outputs(self) -> int:
        """Maps that the network gives: one for each region, else for each class."""
        return len(self.regions) or self.classes

    @property
    def found(self) -> tuple[tuple[int, str], ...]:
        """Value and name of what a label map shows: the labels, or the regions with the value each is written with."""
        return tuple((region.written, region.name) for region in self.regions) or self.labels

    @property
    def made_of(self) -> dict[int, tuple[int, ...]]:
        """The labels that each region is made of, by the value it is written with; empty without regions."""
        return {region.written: region.values for region in self.regions}

    @property
    def membership(self) -> NDArray[np.bool_] | None:
        """Which class is part of which region, (regions, classes); None without regions."""
        return membership(self.regions, [value for value, _ in self.labels]) if self.regions else None

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"format": FORMAT, **asdict(self)}


def write_volume_plan(path: Path, plan: VolumePlan) -> None:
    """Write a plan as JSON."""
    write_json(path, plan.to_json())


def read_volume_plan(path: Path) -> VolumePlan:
    """Read a plan.

    Raises:
        DataError: The file is missing, damaged or no plan.
    """
    content = read_record(path, dict[str, Any], _AGAIN)
    if content.pop("format", None) != FORMAT:
        raise DataError(f"{path} is no volume plan: its format is not {FORMAT}. {_AGAIN}")
    return checked(content, VolumePlan, path, _AGAIN)


def describe_plan(
    plan: VolumePlan,
    facts: Sequence[CaseFacts],
    *,
    seconds_per_epoch: float | None = None,
    whole_run: tuple[float, str] | None = None,
) -> str:
    """Describe a plan and the cases that it was made from, as a table in plain text.

    Args:
        plan: What was decided.
        facts: Of the cases that it was made from, in the plan's orientation.
        seconds_per_epoch: Expected; None leaves the line out.
        whole_run: Seconds that a cross-validation is expected to train, and what it consists of; None leaves it out.
    """
    shapes = np.array([case.shape for case in facts])
    spacings = np.array([case.spacing for case in facts])
    rows = [
        ("cases", str(len(facts)), f"median {_median(shapes)} voxels of {_median(spacings)} mm"),
        ("orientation", plan.orientation, "axes of what the network sees"),
        ("spacing", f"{times([f'{mm:g}' for mm in plan.spacing])} mm", "median of the cases, unless given"),
    ]
    for channel, entry in enumerate(plan.intensity):
        what = "intensity" if len(plan.intensity) == 1 else f"intensity of channel {channel + 1}"
        rows.append((what, *_intensity(entry)))
    deepest = [n // int(np.prod(steps)) for n, steps in zip(plan.patch, zip(*plan.strides, strict=True), strict=True)]
    rows += [
        ("patch", f"{times(plan.patch)} voxels", f"{times(deepest)} positions at the coarsest stage"),
        ("strides", "  ".join(times(step) for step in plan.strides), "stem, downsamplings; none on far coarser axes"),
        (
            "kernels",
            "  ".join(times(size) for size in plan.kernel_sizes),
            "planned for each stage; 1 along far coarser axes",
        ),
        ("batch size", str(plan.batch_size), "patches per step"),
    ]
    if plan.labels:
        rows.append(("labels", shown_labels(plan.labels), _smallest(plan, facts)))
    if plan.regions:
        parts = [f"{region.name} = {', '.join(map(str, region.values))}" for region in plan.regions]
        rows.append(("regions", "; ".join(parts), "each learned by itself; written in this order"))
    if plan.memory_bytes:
        rows.append(("memory", f"{plan.memory_bytes / 1e9:.1f} GB", "expected peak of training"))
    if seconds_per_epoch is not None:
        rows.append(("time", f"{duration(seconds_per_epoch)} per epoch", "expected, from a step measured here"))
    if whole_run is not None:
        rows.append(("whole run", duration(whole_run[0]), whole_run[1]))
    # A note has no third column, and may be as long as it needs.
    first = max(len(what) for what, _, _ in rows)
    second = max(len(value) for _, value, _ in rows)
    rows += [("note", note, "") for note in plan.notes]
    return "\n".join(f"{what:<{first}}  {value:<{second}}  {why}".rstrip() for what, value, why in rows)


def _intensity(entry: Intensity) -> tuple[str, str]:
    if entry.scheme == "zscore":
        return "z-score", "each image by its own mean and standard deviation"
    return (
        f"CT, clipped to [{entry.low:g}, {entry.high:g}]",
        f"0.5th and 99.5th percentile of the foreground; then mean {entry.mean:g}, SD {entry.std:g}",
    )


def _smallest(plan: VolumePlan, facts: Sequence[CaseFacts]) -> str:
    """Which label is the smallest where it occurs, in ml; what a patch and a spacing must not lose."""
    sizes: dict[str, float] = {}
    for value, name in plan.labels:
        volumes = [case.labels[value] * case.voxel_mm3 / 1000 for case in facts if case.labels.get(value)]
        if volumes:
            sizes[name] = float(np.median(volumes))
    if not sizes:
        return "none occurs in these cases"
    name = min(sizes, key=sizes.__getitem__)
    return f"smallest: {name}, median {sizes[name]:.3g} ml"


def _median(values: np.ndarray) -> str:
    return times([f"{value:g}" for value in np.median(values, axis=0)])
