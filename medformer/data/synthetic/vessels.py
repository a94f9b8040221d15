"""A branching tree of submucosal vessels, drawn on the unrolled wall."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.synthetic.noise import Array

_MARGIN = 256


def vessel_map(rng: np.random.Generator, shape: tuple[int, int], trees: int) -> Array:
    """Draw vessels on a map (rows along the colon, columns around it) that tiles around; values 0 .. 1.

    Each tree is a random walk that keeps its direction, thins out, and splits into two at moderate angles, as the
    vessels that shine through healthy mucosa do.
    """
    rows, columns = shape
    # Drawn with a margin on both sides, which is then folded back around the tube.
    canvas = np.zeros((rows, columns + 2 * _MARGIN), np.uint8)
    for _ in range(trees):
        start = rng.uniform((0.0, 0.0), (columns, rows))
        branches = [(start, rng.uniform(0.0, 2.0 * np.pi), float(rng.uniform(1.3, 2.9)))]
        while branches:
            position, direction, width = branches.pop()
            length = int(rng.integers(10, 26))
            turns = np.cumsum(rng.normal(0.0, 0.22, length)) + direction
            steps = rng.uniform(4.0, 8.0, length)
            path = position + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * steps[:, None], axis=0)
            path = np.concatenate([position[None], path])
            _draw(canvas, path, width)
            if width > 0.9:
                spread = rng.uniform(0.35, 0.9, 2)
                branches.append((path[-1], turns[-1] + spread[0], width * float(rng.uniform(0.6, 0.85))))
                branches.append((path[-1], turns[-1] - spread[1], width * float(rng.uniform(0.5, 0.8))))
    tube = canvas[:, _MARGIN:-_MARGIN]
    tube[:, -_MARGIN:] = np.maximum(tube[:, -_MARGIN:], canvas[:, :_MARGIN])
    tube[:, :_MARGIN] = np.maximum(tube[:, :_MARGIN], canvas[:, -_MARGIN:])
    fine = cv2.GaussianBlur(tube, (0, 0), 0.8)
    return np.asarray(fine.astype(np.float32) / 255.0)


def _draw(canvas: NDArray[np.uint8], path: NDArray[np.float64], width: float) -> None:
    shift = 4
    strength = min(255, int(70 + 50 * width))
    points = np.round((path + np.array([_MARGIN, 0.0])) * (1 << shift)).astype(np.int32)
    cv2.polylines(canvas, [points], False, strength, max(1, round(width)), cv2.LINE_AA, shift)
