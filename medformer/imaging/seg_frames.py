"""The frames of a DICOM segmentation and the grid that they lie on, read through highdicom (needs the extra `dicom`).

Converters leave frames without a label out. A frame is therefore placed by the position that it states, and a plane of
the grid for which there is no frame is background.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.dicom_files import dicom_module
from medformer.imaging.geometry import GRID_TOLERANCE, Geometry, Volume, empty_voxels, smallest_integer

TRACKING = "label {}"
"""Tracking identifier of a segment whose label value is not its number."""

_SAME = 1e-3  # mm
_UNEVEN = 0.05  # share of a step by which a frame may be off its place
_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """Where one frame lies.

    Attributes:
        segment: Its segment number; 0 where pixels hold segment numbers.
        columns: Step from a column to the next, mm, RAS.
        rows: Step from a row to the next, mm, RAS.
        position: Center of the first pixel, mm, RAS.
    """

    segment: int
    columns: NDArray[np.float64]
    rows: NDArray[np.float64]
    position: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SegFile:
    """An open segmentation.

    Attributes:
        path: As given.
        made: highdicom's object.
        frames: In the order of the file.
        values: Label value of each segment number.
        size: Columns and rows of a frame.
        step: Distance of neighboring slices as the file states it, mm; 0 where it does not.
        thickness: Of a slice as the file states it, mm; 0 where it does not.
    """

    path: Path
    made: Any
    frames: Sequence[Frame]
    values: dict[int, int]
    size: tuple[int, int]
    step: float
    thickness: float

    @property
    def names(self) -> dict[int, str]:
        """Name of each label value."""
        segments = self.made.SegmentSequence
        named = {int(segment.SegmentNumber): str(segment.get("SegmentLabel") or "").strip() for segment in segments}
        return {value: named.get(number, "") for number, value in self.values.items()}

    def grid(self) -> Geometry:
        """The smallest regular box that holds every frame.

        Raises:
            DataError: The frames make no regular box.
        """
        first = self.frames[0]
        normal = np.cross(first.rows, first.columns)
        normal /= np.linalg.norm(normal)
        depth = np.array([frame.position @ normal for frame in self.frames])
        levels = np.sort(depth)
        gaps = np.diff(levels)
        gaps = gaps[gaps > _SAME]
        step = float(gaps.min()) if gaps.size else self.step or self.thickness or 1.0
        if gaps.size and self.step:
            stated = gaps / self.step
            step = self.step if np.abs(stated - np.rint(stated)).max() <= _UNEVEN else step
        affine = np.eye(4)
        lowest = self.frames[int(np.argmin(depth))]
        affine[:3] = np.stack([lowest.columns, lowest.rows, step * normal, lowest.position], axis=1)
        count = round(float(levels[-1] - levels[0]) / step) + 1
        return Geometry((*self.size, count), affine)

    def place(self, grid: Geometry) -> NDArray[Any]:
        """The label map on a grid.

        Raises:
            DataError: A labeled pixel lies off the grid or between its voxels, two segments overlap, or pixels are
                probabilities.
        """
        found = empty_voxels(self.path, grid.shape, smallest_integer(0, max(self.values.values(), default=0)))
        found[...] = 0
        table = np.zeros(max(self.values, default=0) + 1, found.dtype)
        for number, value in self.values.items():
            table[number] = value
        planes: set[int] = set()
        axis = 2
        for index, frame in enumerate(self.frames):
            steps, off = self._on_grid(frame, grid)
            if off > GRID_TOLERANCE:
                raise DataError(
                    f"{self.path}: its frames lie between the voxels of its image (pixels of "
                    f"{np.linalg.norm(frame.columns):.4g} x {np.linalg.norm(frame.rows):.4g} mm, up to {off:.3g} "
                    f"voxels off; at most {GRID_TOLERANCE:g} counts as rounding). It belongs to another series, or was "
                    "resampled: export it on the grid of its series."
                )
            axis = int(np.argmin(np.abs(steps[:, :2]).sum(1)))
            planes.add(int(steps[axis, 2]))
            numbers = self._numbers(index, frame)
            rows, columns = np.nonzero(numbers)
            places = steps @ np.stack([columns, rows, np.ones_like(rows)])
            if places.size and (places.min() < 0 or (places.max(1) >= grid.shape).any()):
                raise DataError(
                    f"{self.path}: frame {index + 1} marks voxels outside of the {grid.shape} voxels of its image. It "
                    "belongs to another series."
                )
            there = tuple(places)
            values = table[numbers[rows, columns]]
            taken = found[there]
            clash = np.flatnonzero((taken != 0) & (taken != values))
            if clash.size:
                raise DataError(
                    f"{self.path}: the segments {taken[clash[0]]} and {values[clash[0]]} overlap at voxel "
                    f"{tuple(int(n) for n in places[:, clash[0]])}; expected one label for each voxel. Export the "
                    "segments as files of their own, or decide which one wins."
                )
            found[there] = values
        self._refuse_coarser(grid, axis, planes)
        return found

    def off(self, grid: Geometry) -> float:
        """How far frames lie off the voxels of a grid, in voxels; infinite where they lie across it."""
        return max(self._on_grid(frame, grid)[1] for frame in self.frames)

    def _on_grid(self, frame: Frame, grid: Geometry) -> tuple[NDArray[np.int64], float]:
        """Where a frame lies on a grid.

        Returns:
            Steps from a column to the next and from a row to the next, and the place of the first pixel, in whole
            voxels (3, 3); and how far the frame lies off them.
        """
        steps = np.stack([frame.columns, frame.rows, frame.position - grid.affine[:3, 3]], axis=1)
        exact = np.linalg.solve(grid.affine[:3, :3], steps)
        whole = np.rint(exact)
        corners = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in self.size))])
        off = float(np.abs((exact - whole) @ corners.T).max())
        turn = np.abs(whole[:, :2])
        along = (turn.sum(0) == 1).all() and turn.sum(1).max() == 1
        return whole.astype(np.int64), off if along else np.inf

    def _numbers(self, index: int, frame: Frame) -> NDArray[Any]:
        """Segment number of each pixel of a frame, (rows, columns)."""
        try:
            pixels: NDArray[Any] = np.asarray(self.made.get_stored_frame(index, as_index=True))
        except Exception as error:  # as in open_seg
            raise DataError(f"{self.path}: frame {index + 1} cannot be decoded ({error}). Fetch it again.") from error
        if not frame.segment:
            unknown = set(np.unique(pixels).tolist()) - {0, *self.values}
            if unknown:
                raise DataError(f"{self.path} holds the segment numbers {sorted(unknown)}, which it does not describe.")
            return pixels
        full = int(self.made.get("MaximumFractionalValue", 1)) if self.made.SegmentationType == "FRACTIONAL" else 1
        between = pixels[(pixels != 0) & (pixels != full)]
        if between.size:
            raise DataError(
                f"{self.path} holds fractional segments, such as {int(between[0])} of {full} in frame {index + 1}; "
                "expected voxels that belong to a segment or not. Threshold it and export it as binary segments."
            )
        return (pixels != 0) * np.intp(frame.segment)

    def _refuse_coarser(self, grid: Geometry, axis: int, planes: set[int]) -> None:
        """Frames five planes apart may be all that is labeled, or the planes of a coarser grid; the file says which."""
        ordered = sorted(planes)
        closest = min((b - a for a, b in pairwise(ordered)), default=1)
        own = grid.spacing[axis]
        if closest > 1 and self.step and abs(self.step - own) > _UNEVEN * own:
            raise DataError(
                f"{self.path}: its slices are {self.step:.4g} mm apart, those of its image {own:.4g} mm. It belongs to "
                "another series, or was resampled: export it on the grid of its series."
            )


def open_seg(path: Path) -> SegFile:
    """Open a segmentation and read where its frames lie.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: No such file, no segmentation, or frames without a place in the patient.
    """
    highdicom = dicom_module("highdicom")
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a DICOM segmentation. Correct the path.")
    try:
        made = highdicom.seg.segread(path)
        frames = [_frame(made, item) for item in made.PerFrameFunctionalGroupsSequence]
        measures = _group(made, made.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
        step, thickness = (abs(float(measures.get(name) or 0)) for name in ("SpacingBetweenSlices", "SliceThickness"))
        size = (int(made.Columns), int(made.Rows))
        values = _values(made)
        count = int(made.NumberOfFrames)
    except Exception as error:  # a damaged file makes pydicom and highdicom raise anything
        raise DataError(
            f"{path} is no DICOM segmentation that can be read ({error}); expected one whose frames state their place "
            "in the patient."
        ) from error
    unknown = sorted({frame.segment for frame in frames} - {0, *values})
    if unknown:
        raise DataError(f"{path} has frames of the segments {unknown}, which it does not describe. Export it again.")
    if not frames or len(frames) != count:
        raise DataError(f"{path} says that it has {count} frames and places {len(frames)} of them. Export it again.")
    return SegFile(path, made, frames, values, size, step, thickness)


def segment_conflicts(named: Sequence[Mapping[int, str]]) -> dict[str, int]:
    """Names, in lower case, that stand for different label values in several segmentations, with their usual value.

    A name that one segmentation gives to several segments, such as "lesion", says nothing of their values.

    Args:
        named: Name of each label value, for each segmentation.
    """
    values: dict[str, Counter[int]] = {}
    repeated: set[str] = set()
    for names in named:
        for value, name in names.items():
            values.setdefault(name.casefold(), Counter())[value] += 1
        repeated |= {name for name, times in Counter(map(str.casefold, names.values())).items() if times > 1}
    return {
        name: counts.most_common(1)[0][0]
        for name, counts in values.items()
        if name and name not in repeated and len(counts) > 1
    }


def enclosing(first: Geometry, second: Geometry) -> Geometry:
    """The smallest box on the first grid that holds both grids' voxels."""
    ends = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in second.shape))], dtype=np.float64)
    places = np.rint(np.linalg.solve(first.affine, second.affine @ ends.T))[:3]
    low = np.minimum(places.min(1), 0)
    high = np.maximum(places.max(1), np.array(first.shape) - 1)
    affine = first.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    x, y, z = (int(n) for n in high - low + 1)
    return Geometry((x, y, z), affine)


def read_dicom_seg(path: Path, grid: Geometry | None = None) -> Volume:
    """Read a DICOM segmentation as a label map.

    Args:
        path: The file.
        grid: Of the series or volume that it belongs to. None for the box that the file's own frames span.

    Returns:
        Label values: those that `write_dicom_seg` was given, else the segment numbers.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: No segmentation, segments that overlap or are not binary, or frames that do not lie on the grid.
    """
    file = open_seg(path)
    box = file.grid() if grid is None else grid
    labels = file.place(box)
    labels = labels.astype(smallest_integer(0, int(labels.max())), copy=False)
    return Volume(labels, box, path, "segments", names=file.names)


def _group(made: Any, item: Any, name: str) -> Any:
    """A functional group of a frame, which all frames may share."""
    return (item if name in item else made.SharedFunctionalGroupsSequence[0])[name].value[0]


def _frame(made: Any, item: Any) -> Frame:
    numbers = [
        np.array([float(number) for number in _group(made, item, f"{group}Sequence")[name].value])
        for group, name in (
            ("PlanePosition", "ImagePositionPatient"),
            ("PlaneOrientation", "ImageOrientationPatient"),
            ("PixelMeasures", "PixelSpacing"),
        )
    ]
    position, orientation, spacing = numbers
    if [len(values) for values in numbers] != [3, 6, 2] or not np.isfinite(np.concatenate(numbers)).all():
        raise ValueError("a frame without a place")
    segment = 0
    if made.SegmentationType != "LABELMAP":
        segment = int(_group(made, item, "SegmentIdentificationSequence").ReferencedSegmentNumber)
    columns, rows = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
    return Frame(segment, columns * _TO_RAS, rows * _TO_RAS, position * _TO_RAS)


def _values(made: Any) -> dict[int, int]:
    """Label value of each segment: what all tracking identifiers say, else its number."""
    own = {
        int(segment.SegmentNumber): re.fullmatch(TRACKING.format(r"(\d+)"), str(segment.get("TrackingID", "")))
        for segment in made.SegmentSequence
    }
    values = {number: int(match.group(1)) for number, match in own.items() if match}
    unique = len(set(values.values())) == len(own) and 0 not in values.values()
    return values if unique else {number: number for number in own if number}
