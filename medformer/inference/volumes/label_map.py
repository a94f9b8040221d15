"""A predicted label map on the grid of its input, and what it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from medformer.imaging.geometry import Geometry, label_counts


@dataclass(frozen=True)
class LabelMap:
    """What a segmenter gives back.

    Attributes:
        array: Label values (X, Y, Z) as the training labels have them, 0 for background.
        geometry: Grid of the input, which is the array's.
        labels: Name of each label value, ascending.
        confidence: For each label found, the mean probability of its voxels (before component rules). It ranks cases
            for review; networks are seldom calibrated.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: Mapping[int, str]
    confidence: Mapping[int, float] = field(default_factory=dict)

    @property
    def volumes_ml(self) -> dict[int, float]:
        """Milliliters of each label."""
        counts = label_counts(self.array)
        return {value: float(counts.get(value, 0)) * self.geometry.voxel_ml for value in self.labels}
