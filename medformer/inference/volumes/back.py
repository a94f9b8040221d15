"""From probabilities on the networks' grids to labels on the input's grid, a few planes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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

    The streams are resampled linearly (exactly the given numbers where grids coincide) and added. One class is looked
    at after the other with a running maximum, so that no array ever holds all classes of the output.

    Args:
        streams: Add up to the probability of each class, along the same axis.
        target: Integers (X, Y, Z), written in place; may be a turned view.
        axis: Spatial axis of the streams.
        values: What to write for each of the K classes.

    Returns:
        For each value written, the mean probability of its voxels.
    """
    length = target.shape[axis]
    across = tuple(size for other, size in enumerate(target.shape) if other != axis)
    lookup = np.asarray(values, dtype=target.dtype)
    output = np.moveaxis(target, axis, 0)
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
        self._low = self._high = torch.zeros(0, dtype=torch.int64)
        self._share = torch.zeros(0)

    def move(self, start: int, stop: int) -> None:
        """Go to the output planes from `start` to before `stop`; `start` never goes back."""
        # Both grids cover the same box: voxel centers lie half a voxel inside of its ends.
        place = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * self._size / self._length - 0.5
        place = place.clamp(0, self._size - 1)
        low = place.floor().long()
        high = (low + 1).clamp(max=self._size - 1)
        self._share = (place - low).float()[:, None, None]
        first, last = int(low[0]), int(high[-1])
        held = self._held
        while held is None or self._first + held.shape[1] <= last:
            piece = next(self._pieces)
            if held is not None and first > self._first:
                drop = min(first - self._first, held.shape[1])
                held, self._first = held[:, drop:], self._first + drop
            held = piece if held is None else torch.cat((held, piece), dim=1)
        self._held = held
        self._low, self._high = low - self._first, high - self._first

    def planes(self, index: int, across: tuple[int, ...]) -> Tensor:
        """The current output planes of one class, float32 (planes, *across)."""
        assert self._held is not None
        held = self._held[index]
        stack = held[self._low]
        if self._size != self._length:
            stack = torch.lerp(stack, held[self._high], self._share)
        if tuple(stack.shape[1:]) != across:
            stack = F.interpolate(stack[:, None], across, mode="bilinear", align_corners=False)[:, 0]
        return stack.cpu()
