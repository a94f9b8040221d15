"""What is decided about volumes before a network sees them, as data.

A plan is made from training cases alone (see `planning`), written beside the weights, and read again for prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medformer.errors import DataError
from medformer.files import read_json, write_json

FORMAT = "medformer-volume-plan/1"

Axes = tuple[int, int, int]
"""One number for each axis, in the plan's orientation."""


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

    @property
    def classes(self) -> int:
        """Number of labels and the background."""
        return len(self.labels) + 1

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
    try:
        content = read_json(path)
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return _from_json(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is no volume plan ({error}); expected what training wrote. Train again.") from error


def _from_json(content: Mapping[str, Any]) -> VolumePlan:
    return VolumePlan(
        spacing=_three(content["spacing"], float),
        intensity=tuple(Intensity(**entry) for entry in content["intensity"]),
        labels=tuple((int(value), str(name)) for value, name in content["labels"]),
        patch=_three(content["patch"], int),
        strides=tuple(_three(entry, int) for entry in content["strides"]),
        kernel_sizes=tuple(_three(entry, int) for entry in content["kernel_sizes"]),
        batch_size=int(content["batch_size"]),
        orientation=str(content["orientation"]),
        memory_bytes=int(content["memory_bytes"]),
        notes=tuple(str(note) for note in content["notes"]),
    )


def _three(values: Any, convert: Any) -> tuple[Any, Any, Any]:
    first, second, third = values
    return convert(first), convert(second), convert(third)
