"""From probabilities on the networks' grids to a label map on the input's grid, a few planes at a time.

Probabilities of a whole volume, summed over the networks of an ensemble, are kept in memory while small, else on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medformer.errors import ResourceError
from medformer.imaging.geometry import Geometry, label_counts
from medformer.imaging.resample import resample, slab
from medformer.inference.volumes.probabilities import stored


@dataclass(frozen=True)
class LabelMap:
    """What a segmenter gives back.

    Attributes:
        array: Label values (X, Y, Z) as the training labels have them, 0 for background.
        geometry: Grid of the input, which is the array's.
        labels: Name of each label value, ascending; of regions, by the value that each is written with.
        confidence: For each label found, the mean probability of its voxels (before component rules). It ranks cases
            for review; networks are seldom calibrated.
        probabilities: (X, Y, Z, labels) of each label, as `empty_maps` keeps them (before component rules); None where
            they were not asked for.
        made_of: The values that each region is made of, by the value it is written with; empty without regions.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: Mapping[int, str]
    confidence: Mapping[int, float] = field(default_factory=dict)
    probabilities: NDArray[Any] | None = None
    made_of: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def volumes_ml(self) -> dict[int, float]:
        """Milliliters of each label or region."""
        counts = label_counts(self.array)
        parts = {value: self.made_of.get(value, (value,)) for value in self.labels}
        return {
            value: float(sum(counts.get(one, 0) for one in some)) * self.geometry.voxel_ml
            for value, some in parts.items()
        }


IN_MEMORY = 256 * 2**20
"""Bytes kept in memory; more go to a temporary file."""

_PLANES = 8


class ProbabilityBuffer(AbstractContextManager["ProbabilityBuffer"]):
    """Adds up maps that come plane by plane.

    Kept as float16: a probability is off by less than 0.0005, and a scan of 512 x 512 x 800 voxels with 6 classes
    takes 2.5 GB on disk. The file is read and written, never mapped, so that it counts towards no limit of memory.

    Args:
        classes: K, maps per voxel.
        shape: X, Y, Z of the whole.
        axis: Spatial axis that planes are stacked along.
        folder: Where a temporary file may be made, itself made if needed; the system's default without one.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int], *, axis: int, folder: Path | None = None) -> None:
        across = [size for other, size in enumerate(shape) if other != axis]
        self.classes, self.planes, self.axis = classes, shape[axis], axis
        self._plane = (classes, across[0], across[1])
        self._bytes = 2 * classes * across[0] * across[1]
        self._written = 0
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115

    def add(self, pieces: Iterator[Tensor], weight: float) -> None:
        """Add `weight` times a whole volume.

        Args:
            pieces: float32 (K, X, Y, Z), some planes thick, in order from the first plane to the last.
            weight: Share of the networks behind these pieces.

        Raises:
            ResourceError: There is no room on the disk.
        """
        start = 0
        for piece in pieces:
            stack = weight * piece.movedim(self.axis + 1, 0)
            count = len(stack)
            try:
                if start < self._written:
                    stack = stack + self._read(start, count)
                self._file.seek(start * self._bytes)
                self._file.write(stack.cpu().numpy().astype(np.float16).tobytes())
            except OSError as error:
                raise ResourceError(
                    f"No room for the {self.planes * self._bytes / 1e9:.3g} GB of probabilities of an ensemble in "
                    f"{self._folder or tempfile.gettempdir()}: {error}. Free some space, set TMPDIR to a larger disk, "
                    "or predict with one network."
                ) from error
            start += count
        self._written = max(self._written, start)

    def pieces(self) -> Iterator[Tensor]:
        """The sum, float32 (K, X, Y, Z), some planes thick, in order."""
        for start in range(0, self.planes, _PLANES):
            yield self._read(start, min(_PLANES, self.planes - start)).movedim(0, self.axis + 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def _read(self, start: int, count: int) -> Tensor:
        self._file.seek(start * self._bytes)
        content = self._file.read(count * self._bytes)
        stack = np.frombuffer(content, np.float16).reshape(count, *self._plane).astype(np.float32)
        return torch.from_numpy(stack)


@dataclass(frozen=True)
class Stream:
    """Part of the probabilities of a volume, given out from one end to the other.

    Attributes:
        shape: X, Y, Z of its grid, which covers the same box as every other stream's and as the output.
        pieces: float32 (K, X, Y, Z), some planes thick along the axis of the stream, in order.
    """

    shape: tuple[int, int, int]
    pieces: Iterator[Tensor]


def write_classes(
    streams: Sequence[Stream],
    target: NDArray[Any],
    *,
    axis: int,
    values: Sequence[int],
    maps: NDArray[Any] | None = None,
    regions: bool = False,
) -> dict[int, float]:
    """Write for each voxel the value of the class with the highest probability; on a tie, of the first such class.

    Regions are written one after the other where their probability is above one half, a later one over an earlier one.

    The streams are resampled linearly (where grids coincide, they stay exactly what they are) and added. Classes are
    compared one after the other with a running maximum, so that no array ever holds all classes of the output.

    Args:
        streams: Add up to the probability of each class, or of each region, along the same axis.
        target: Integers (X, Y, Z), written in place; may be a turned view.
        axis: Spatial axis of the streams.
        values: What to write for each of the K classes, the background first; with regions, 0 and then their values.
        maps: Receives the probabilities of all but the background, (K - 1, X, Y, Z); may be a turned view.
        regions: Whether the streams hold regions, K - 1 of them.

    Returns:
        For each value written, the mean probability of its voxels; of a region, of all voxels that it has by itself.
    """
    length = target.shape[axis]
    lookup = np.asarray(values, dtype=target.dtype)
    output = np.moveaxis(target, axis, 0)
    across = (output.shape[1], output.shape[2])
    readers = [_Reader(stream, axis, length) for stream in streams]
    counts, sums = np.zeros(len(values), np.int64), np.zeros(len(values))
    for start in range(0, length, _PLANES):
        stop = min(start + _PLANES, length)
        for reader in readers:
            reader.move(start, stop)
        best = torch.full((stop - start, *across), -1.0)
        winner = torch.zeros(best.shape, dtype=torch.int64)
        for index in range(1 if regions else 0, len(values)):
            channel = index - 1 if regions else index
            total = readers[0].planes(channel, across)
            for reader in readers[1:]:
                total = total + reader.planes(channel, across)
            if maps is not None and index:
                np.moveaxis(maps[index - 1], axis, 0)[start:stop] = stored(total.numpy(), maps.dtype)
            better = total > (0.5 if regions else best)
            winner[better] = index
            if regions:
                counts[index] += int(better.sum())
                sums[index] += float(total[better].sum(dtype=torch.float64))
            else:
                torch.maximum(best, total, out=best)
        output[start:stop] = lookup[winner.numpy()]
        if regions:
            continue
        flat = winner.numpy().ravel()
        counts += np.bincount(flat, minlength=len(values))
        sums += np.bincount(flat, weights=best.numpy().ravel(), minlength=len(values))
    # Resampling and averaging weights add up to one only to within rounding.
    return {
        value: min(float(total / count), 1.0) for value, count, total in zip(values, counts, sums, strict=True) if count
    }


class _Reader:
    """Gives output planes of a stream, holding only the planes of the stream that are still needed."""

    def __init__(self, stream: Stream, axis: int, length: int) -> None:
        self._pieces = (piece.movedim(axis + 1, 1) for piece in stream.pieces)
        self._size = stream.shape[axis]
        self._length = length
        self._first = 0
        self._held: Tensor | None = None
        self._low = self._high = 0
        self._matrix: Tensor | None = None

    def move(self, start: int, stop: int) -> None:
        """Go to the output planes from `start` to before `stop`; `start` never goes back."""
        low, high = start, stop
        if self._size != self._length:
            # What resampling makes of the identity is its matrix: which planes go into which, and by how much.
            identity = np.eye(self._size, dtype=np.float32)[:, np.newaxis]
            matrix = slab(identity, (self._length, 1, self._size), start, stop, 0)[:, 0]
            used = np.flatnonzero(matrix.any(0))
            low, high = int(used[0]), int(used[-1]) + 1
            self._matrix = torch.from_numpy(np.ascontiguousarray(matrix[:, low:high]))
        while self._held is None or self._first + self._held.shape[1] < high:
            piece = next(self._pieces)
            if self._held is None:
                self._held = piece
                continue
            spent = min(max(low - self._first, 0), self._held.shape[1])
            self._held = torch.cat((self._held[:, spent:], piece), dim=1)
            self._first += spent
        self._low, self._high = low - self._first, high - self._first

    def planes(self, index: int, across: tuple[int, int]) -> Tensor:
        """The current output planes of one class, float32 (planes, *across)."""
        assert self._held is not None
        stack = self._held[index, self._low : self._high].cpu()
        if self._matrix is not None:
            stack = torch.tensordot(self._matrix, stack, dims=1)
        return torch.from_numpy(resample(stack.numpy(), (len(stack), *across), order=1))
