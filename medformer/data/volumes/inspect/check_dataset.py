"""What is wrong with volumes shows in part only when all of them have been seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medformer.data.manifest import Case
from medformer.data.problems import Problem
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.imaging.geometry import Geometry

SPACING_RATIO = 3.0
"""How many times finer or coarser than the median along an axis a voxel is before it is named."""

INTENSITY_RATIO = 1000.0
"""How many times larger the largest value of one image may be than that of another."""

ALL_CASES = "all cases"
"""Stands for the id in problems of the whole."""

_AXES = (("R", "L"), ("A", "P"), ("S", "I"))


class DatasetCheck:
    """Collects facts case by case; `problems` then compares them."""

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self._images: list[tuple[Case, tuple[float, ...]]] = []
        self._largest: list[tuple[Case, list[float]]] = []
        self._labels: set[int] = set()
        self._labeled = 0
        self._files: dict[str, str] = {}
        self._voxels: dict[tuple[str, ...], str] = {}
        self._duplicates: list[Problem] = []

    def add_image(self, case: Case, geometry: Geometry, largest: Sequence[float]) -> None:
        """Note the grid of an image and the largest magnitude in each of its channels."""
        self._images.append((case, anatomical_spacing(geometry)))
        self._largest.append((case, list(largest)))

    def add_labels(self, values: Iterable[int]) -> None:
        """Note which labels a case has."""
        self._labels.update(values)
        self._labeled += 1

    def add_contents(self, case: Case, file_hash: str, voxel_hashes: Sequence[str]) -> None:
        """Compare a case with those before it; the stronger statement wins."""
        earlier = self._files.setdefault(file_hash, case.id)
        if earlier != case.id:
            self._duplicates.append(Problem(case.id, str(case.image), "duplicate-file", f"the same file as {earlier}"))
            return
        earlier = self._voxels.setdefault(tuple(voxel_hashes), case.id)
        if earlier != case.id:
            detail = f"the same voxels as {earlier}"
            self._duplicates.append(Problem(case.id, str(case.image), "duplicate-voxels", detail))

    def problems(self, *, labels: bool) -> list[Problem]:
        """Everything that the cases show together.

        Args:
            labels: Whether label maps were looked at.
        """
        found = [*self._odd_spacing(), *self._intensity_scale(), *(self._never_seen() if labels else ())]
        return [*found, *self._duplicates]

    def _odd_spacing(self) -> Iterator[Problem]:
        if not self._images:
            return
        typical = np.median([spacing for _, spacing in self._images], axis=0)
        for case, spacing in self._images:
            ratios = np.array(spacing) / typical
            if ratios.max() > SPACING_RATIO or ratios.min() < 1 / SPACING_RATIO:
                detail = f"its voxels are {_numbers(spacing)} mm; the median of all cases is {_numbers(typical)} mm"
                yield Problem(case.id, str(case.image), "odd-spacing", detail)

    def _intensity_scale(self) -> Iterator[Problem]:
        for channel, name in enumerate(self.info.channels):
            some = [(values[channel], case) for case, values in self._largest if channel < len(values)]
            some = [(value, case) for value, case in some if value > 0]
            if not some:
                continue
            low, high = (pick(some, key=lambda entry: entry[0]) for pick in (min, max))
            if high[0] > INTENSITY_RATIO * low[0]:
                yield Problem(
                    ALL_CASES,
                    "",
                    "intensity-scale",
                    f"the largest value of {name} runs from {low[0]:g} ({low[1].id}) to {high[0]:g} ({high[1].id}). "
                    "Normalizing each image by itself (zscore) is safe, a common scale is not",
                )

    def _never_seen(self) -> Iterator[Problem]:
        for value, name in self.info.labels:
            if self._labeled and value not in self._labels:
                detail = f"label {value} ({name}) occurs in none of the {self._labeled} label maps"
                yield Problem(ALL_CASES, "", "label-never-seen", detail)


def anatomical_spacing(geometry: Geometry) -> tuple[float, ...]:
    """Voxel size from left to right, from back to front and from foot to head, mm."""
    codes = geometry.axcodes
    return tuple(
        next(size for code, size in zip(codes, geometry.spacing, strict=True) if code in pair) for pair in _AXES
    )


def _numbers(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
