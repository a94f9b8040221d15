"""Writing masks, probability maps and overlays; masks and maps are read back and compared before they are kept.

An overlay shows thin contours of a prediction and of the truth on the picture at its own resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medformer.array_file import ArrayFileError, read_npz
from medformer.errors import DataError, ResourceError
from medformer.files import atomic_path
from medformer.imaging.images import read_gray16

PROBABILITY_KEY = "probability"


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask as a lossless 8-bit gray PNG, 0 for background and 255 for foreground.

    The file is read back and compared before it takes its name, so a mask file that exists is correct.

    Args:
        path: A name that ends in `.png`.
        mask: bool (H, W).

    Raises:
        DataError: The name or the array is not what is stated above.
        ResourceError: The folder is not writable, the disk is full, or it returned something else than was written.
    """
    path = _require_suffix(path, ".png")
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise DataError(f"The mask for {path} is {_describe(mask)}; expected a non-empty bool array (H, W).")
    _write_gray_png(path, mask.astype(np.uint8) * np.uint8(255))


def write_probability(path: Path, probability: NDArray[np.float32], kind: Literal["png", "npz"] = "png") -> None:
    """Write a probability map and read it back.

    `png` rounds to 8 bits (error at most 1/510); `npz` keeps float32 exactly, under the key `probability`, so
    that thresholding it again gives the exported mask.

    Args:
        path: A name that ends in `.png` or `.npz`, as `kind` says.
        probability: float (H, W) in [0, 1].
        kind: The format.

    Raises:
        DataError: The name or the array is not what is stated above, or holds NaN.
        ResourceError: As `write_mask`.
    """
    path = _require_suffix(path, f".{kind}")
    if probability.ndim != 2 or probability.size == 0 or not np.issubdtype(probability.dtype, np.floating):
        raise DataError(f"The probabilities for {path} are {_describe(probability)}; expected a float array (H, W).")
    # Written so that NaN fails as well.
    if not (probability.min() >= 0.0 and probability.max() <= 1.0):
        raise DataError(
            f"The probabilities for {path} run from {probability.min()} to {probability.max()}; expected 0 to 1. "
            "Apply a sigmoid to logits first."
        )
    if kind == "png":
        _write_gray_png(path, np.rint(probability * 255).astype(np.uint8))
        return
    stored = probability.astype(np.float32)
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, probability=stored)
        _compare(path, _read_npz(temporary), stored)


def read_probability(path: Path) -> NDArray[np.float32]:
    """Read a probability map: an 8-bit or 16-bit gray picture (divided by full scale), or an NPZ file.

    The values are taken as they are: no per-image stretching, and a 0/1 label map reads as 0 and 1/255.

    Returns:
        float32 (H, W) in [0, 1].

    Raises:
        DataError: The file is missing, corrupt, has colors, or holds values outside [0, 1].
    """
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    gray, full_scale = read_gray16(path)
    return (gray / np.float32(full_scale)).astype(np.float32)


def _write_gray_png(path: Path, gray: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(gray).save(temporary, format="PNG")
        _compare(path, read_gray16(temporary)[0], gray)


def _compare(path: Path, found: NDArray[np.generic], written: NDArray[np.generic]) -> None:
    if not np.array_equal(found, written):
        raise ResourceError(
            f"{path} was read back as {_describe(found)} and differs from the {_describe(written)} that was written. "
            "Check the disk; the file was not kept."
        )


def _read_npz(path: Path) -> NDArray[np.float32]:
    try:
        arrays, others = read_npz(path, {PROBABILITY_KEY}.__contains__)
    except ArrayFileError as error:
        raise DataError(f"{path} cannot be read ({error}); expected a map of probabilities. Export it again.") from None
    if not arrays:
        raise DataError(f"{path} holds {sorted(others)}; expected the key '{PROBABILITY_KEY}'. Export it again.")
    stored = arrays[PROBABILITY_KEY]
    if stored.ndim != 2 or stored.size == 0 or not np.issubdtype(stored.dtype, np.floating):
        raise DataError(f"{path} holds {_describe(stored)}; expected a float array (H, W).")
    if not (stored.min() >= 0.0 and stored.max() <= 1.0):
        raise DataError(f"{path} holds values from {stored.min()} to {stored.max()}; expected probabilities, 0 to 1.")
    return stored.astype(np.float32)


def _require_suffix(path: Path, suffix: str) -> Path:
    if path.suffix.lower() != suffix:
        raise DataError(f"{path} ends in '{path.suffix}'; expected a name that ends in '{suffix}'.")
    return path


def _describe(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"


PREDICTION_COLOR = (240, 228, 66)
"""Yellow of the Okabe-Ito palette (Okabe and Ito 2008): distinguishable from the blue with any color vision."""

TRUTH_COLOR = (86, 180, 233)
"""Sky blue of the Okabe-Ito palette."""

_DARK = (0, 0, 0)


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Draw contours with a dark rim, so that they show on mucosa as well as on highlights.

    The prediction's line runs just outside its mask and the truth's line just inside, so that both stay visible
    where they agree. Along the edge of the picture there is no outside: the prediction's line is the outermost there,
    and the truth's line follows.

    Args:
        image: uint8 (H, W, 3).
        mask: bool (H, W), the prediction.
        truth: bool (H, W), drawn when given.

    Returns:
        uint8 (H, W, 3), a new array.

    Raises:
        DataError: The sizes differ.
    """
    for name, area in (("prediction", mask), ("truth", truth)):
        if area is not None and area.shape != image.shape[:2]:
            raise DataError(f"The {name} is {area.shape} px; expected the picture's size {image.shape[:2]}.")
    # At least two pixels where there is room: between its dark rims the color of a thinner line is hard to see.
    width = max(1, min(2, min(image.shape[:2]) // 120), round(min(image.shape[:2]) / 350))
    along_edge = mask & ~_shrink(np.ones_like(mask), width)
    outside = (_grow(mask, width) & ~mask) | along_edge
    seen = np.zeros_like(mask) if truth is None else truth & ~along_edge
    inside = seen & ~_shrink(seen, width)
    drawn = image.copy()
    drawn[_grow(outside | inside, width)] = _DARK
    drawn[inside] = TRUTH_COLOR
    drawn[outside] = PREDICTION_COLOR
    return drawn


def _grow(area: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return ndimage.binary_dilation(area, ndimage.generate_binary_structure(2, 2), iterations=pixels)


def _shrink(area: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return ndimage.binary_erosion(area, ndimage.generate_binary_structure(2, 2), iterations=pixels)
