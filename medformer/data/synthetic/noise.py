"""Smooth random textures that tile, and sampling them at scattered points."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_CHUNK = 1024


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Draw noise of zero mean and unit variance that varies over `shape / cells` pixels and tiles on both axes."""
    rows, columns = cells
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    padded = np.pad(grid, 2, mode="wrap")
    step = (-(-shape[0] // rows), -(-shape[1] // columns))
    size = ((columns + 4) * step[1], (rows + 4) * step[0])
    large = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    inner = large[2 * step[0] : -2 * step[0], 2 * step[1] : -2 * step[1]]
    exact = inner if inner.shape == shape else cv2.resize(inner, shape[::-1], interpolation=cv2.INTER_LINEAR)
    mean, deviation = cv2.meanStdDev(exact)
    return np.asarray((exact - np.float32(mean[0, 0])) / np.float32(deviation[0, 0] + 1e-6), np.float32)


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int, gain: float = 0.5
) -> Array:
    """Sum `octaves` layers of smooth noise, each twice as fine and `gain` times as strong as the one before."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += gain**octave * smooth_noise(rng, shape, (cells[0] << octave, cells[1] << octave))
    return np.asarray(total / np.float32(cv2.meanStdDev(total)[1][0, 0] + 1e-6), np.float32)


def periodic_curve(rng: np.random.Generator, length: int, harmonics: Sequence[int]) -> Array:
    """Draw a smooth closed curve of `length` samples with values in about -1 .. 1."""
    angle = np.linspace(0.0, 2.0 * np.pi, length, endpoint=False)
    curve = np.zeros(length)
    for harmonic in harmonics:
        curve += rng.normal() * np.cos(harmonic * angle + rng.uniform(0.0, 2.0 * np.pi))
    return np.asarray(curve / (np.abs(curve).max() + 1e-6), np.float32)


def sample(table: Array, rows: Array, columns: Array) -> Array:
    """Read a tiling table (H, W) or (H, W, C) at fractional positions (N,), linearly; gives (N,) or (N, C)."""
    count = rows.size
    padding = -count % _CHUNK
    # OpenCV's remap takes pictures below 32768 px a side only, so the points are folded into rows.
    y = np.pad(rows.astype(np.float32, copy=False), (0, padding)).reshape(-1, _CHUNK)
    x = np.pad(columns.astype(np.float32, copy=False), (0, padding)).reshape(-1, _CHUNK)
    values = cv2.remap(table, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(values.reshape(-1, *table.shape[2:])[:count])


def unit(vectors: Array) -> Array:
    """Scale vectors (..., 3) to length one."""
    return np.asarray(vectors / (np.sqrt(dot(vectors, vectors)) + 1e-9)[..., None], np.float32)


def dot(first: Array, second: Array) -> Array:
    """Inner products over the last axis."""
    # einsum adds three products at once; sum(-1) over so short an axis costs several times more.
    return np.asarray(np.einsum("...i,...i->...", first, second))


def smoothstep(low: float, high: float, value: Array) -> Array:
    """Rise from 0 at `low` to 1 at `high` with zero slope at both ends (falls if `high` is below `low`)."""
    x = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(x * x * (3.0 - 2.0 * x), np.float32)
