"""Probabilities of a whole volume, summed over the networks of an ensemble: in memory while small, else on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from medformer.errors import ResourceError

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
