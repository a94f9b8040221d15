"""From probabilities on the networks' grids to labels on the input's grid, a few planes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medformer.imaging.resample import resample, slab

_PLANES = 8


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
    streams: Sequence[Stream], target: NDArray[Any], *, axis: int, values: Sequence[int]
) -> dict[int, float]:
    """Write for each voxel the value of the class with the highest probability; on a tie, of the first such class.

    The streams are resampled linearly (where grids coincide, they stay exactly what they are) and added. Classes are
    compared one after the other with a running maximum, so that no array ever holds all classes of the output.

    Args:
        streams: Add up to the probability of each class, along the same axis.
        target: Integers (X, Y, Z), written in place; may be a turned view.
        axis: Spatial axis of the streams.
        values: What to write for each of the K classes.

    Returns:
        For each value written, the mean probability of its voxels.
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
        for index in range(len(values)):
            total = readers[0].planes(index, across)
            for reader in readers[1:]:
                total = total + reader.planes(index, across)
            better = total > best
            winner[better] = index
            torch.maximum(best, total, out=best)
        output[start:stop] = lookup[winner.numpy()]
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
