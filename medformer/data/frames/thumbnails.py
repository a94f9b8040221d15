"""Images as short vectors: what a simple classifier needs to tell one endoscope from another."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.manifest import Case
from medformer.imaging.images import read_image
from medformer.progress import Reporter, SilentReporter

_SIDE = 8

LENGTH = _SIDE * _SIDE * 3 + 8
"""Numbers per image."""


def thumbnail(image: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Describe an RGB image (H, W, 3) as the network sees it: float32 (LENGTH,), all in [0, 1].

    The image is stretched to `image_size` (rows, columns) as for the network. The vector holds 8 x 8 mean colors, mean
    and standard deviation of each channel, the share of nearly black pixels (the surround that an endoscope leaves),
    and the mean absolute difference of neighboring pixels (how sharp the picture is).
    """
    seen = cv2.resize(image, image_size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255.0)
    small = cv2.resize(seen, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    dark = (seen.max(axis=2) < 0.1).mean()
    sharpness = (np.abs(np.diff(seen, axis=0)).mean() + np.abs(np.diff(seen, axis=1)).mean()) / 2
    parts = [small.ravel(), seen.mean(axis=(0, 1)), seen.std(axis=(0, 1)), [dark, sharpness]]
    return np.concatenate(parts).astype(np.float32)


def thumbnails(
    cases: Sequence[Case], image_size: tuple[int, int], reporter: Reporter | None = None
) -> dict[str, NDArray[np.float32]]:
    """Decode the cases one by one and describe each, by id.

    Raises:
        DataError: An image cannot be read.
    """
    reporter = reporter or SilentReporter()
    reporter.start("thumbnails", len(cases))
    found = {}
    try:
        for case in cases:
            found[case.id] = thumbnail(read_image(case.required_image()), image_size)
            reporter.advance()
    finally:
        reporter.finish()
    return found
