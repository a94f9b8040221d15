"""Writing photographs (masks and probability maps have their own, lossless writers in `masks.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medformer.errors import ConfigError
from medformer.files import atomic_path

_SUFFIXES = {".png", ".jpg", ".jpeg"}


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB uint8 (H, W, 3) atomically, as PNG or as JPEG (quality 92, full color resolution) by the suffix.

    Raises:
        ConfigError: Another suffix.
        ResourceError: The folder is not writable or the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"Cannot write {path}: got suffix '{path.suffix}', expected .png, .jpg or .jpeg.")
    with atomic_path(path) as temporary:
        # Pillow ignores JPEG's settings when the suffix asks for PNG.
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, quality=92, subsampling=0)
