"""Reading photographs and masks, and writing photographs (masks have their own, lossless writers in `masks.py`).

Reading follows the same rules for every format and mode that Pillow opens:

* EXIF orientation is applied. Color profiles are ignored.
* Transparent pixels are shown over black, the color of an endoscope's border.
* 16-bit gray is divided by 257, so that full scale maps to full scale; a picture is never stretched by its
  own minimum and maximum, because the same tissue would then look different from case to case.
* Floating-point and 32-bit pictures are refused: their range is not stated anywhere in the file.
* Animations and multi-page files are refused: it is not known which frame is meant.
* Pictures above `MAX_PIXELS` are refused before they are decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medformer.errors import ConfigError, DataError
from medformer.files import atomic_path

MAX_PIXELS = 80_000_000
"""Largest picture that is decoded (height times width); 5000 x 5000 is 25 million."""

_WRITTEN = {".png", ".jpg", ".jpeg"}
_EXIF_ORIENTATION = 0x0112
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
_LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP"}
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says.

    Attributes:
        height: Rows after EXIF orientation, px.
        width: Columns after EXIF orientation, px.
        mode: Pillow's mode, such as `RGB`, `L`, `P` or `I;16`.
        format: Pillow's format, such as `JPEG` or `PNG`.
    """

    height: int
    width: int
    mode: str
    format: str


def image_info(path: Path, content: bytes | None = None) -> ImageInfo:
    """Read a picture's size, mode and format from its header.

    Args:
        path: The file.
        content: Its bytes, where they were read before; the file is not opened then.

    Raises:
        DataError: The file is missing, is no picture, is animated or is too large.
    """
    with _opened(path, content) as picture:
        height, width = picture.height, picture.width
        if picture.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
            height, width = width, height
        return ImageInfo(height, width, picture.mode, picture.format or "")


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in px after EXIF orientation, from the header alone.

    Raises:
        DataError: As `image_info`.
    """
    info = image_info(path)
    return info.height, info.width


def read_image(path: Path, content: bytes | None = None) -> NDArray[np.uint8]:
    """Decode a picture; see `image_info` for the arguments.

    Returns:
        uint8 (H, W, 3), RGB, 0-255.

    Raises:
        DataError: The file is missing, corrupt, truncated, animated, too large, or of a refused kind.
    """
    with _opened(path, content) as picture:
        upright = _upright(picture)
        if _is_deep(upright, picture.format):
            gray = _rescale_16_bit(np.asarray(upright), path)
            return np.repeat(gray[:, :, None], 3, axis=2)
        return _rgb(upright, path)


def read_mask_values(path: Path, content: bytes | None = None) -> NDArray[np.uint8]:
    """Decode a mask to one 0-255 value per pixel, before any threshold; see `image_info` for the arguments.

    A color counts by its brightest channel, so that red, white and palette colors are all foreground. Two
    kinds of small numbers are recognized: a lossless mask that holds only 0 and 1 is a label map (1 becomes
    255), and a 16-bit mask whose largest value is at most 255 holds 8-bit values.

    Returns:
        uint8 (H, W).

    Raises:
        DataError: As `read_image`.
    """
    with _opened(path, content) as picture:
        lossless = picture.format not in _LOSSY
        upright = _upright(picture)
        if _is_deep(upright, picture.format):
            raw = np.asarray(upright)
            values = raw.astype(np.uint8) if raw.min() >= 0 and raw.max() <= 255 else _rescale_16_bit(raw, path)
        else:
            values = _rgb(upright, path).max(axis=2)
    if lossless and values.max() == 1:
        values = values * np.uint8(255)
    return values


def read_mask(path: Path, *, threshold: int = 128) -> NDArray[np.bool_]:
    """Decode a mask: foreground is every pixel whose value is at least `threshold`.

    The default sits midway, so that JPEG noise around 0 and 255 does not matter. See `read_mask_values` for
    colors and label maps.

    Returns:
        bool (H, W).

    Raises:
        DataError: As `read_image`.
    """
    return read_mask_values(path) >= threshold


def read_gray16(path: Path) -> tuple[NDArray[np.uint16], int]:
    """Decode a gray picture at its own depth: the values and the value of full scale (255 or 65535).

    Returns:
        uint16 (H, W), and full scale.

    Raises:
        DataError: As `read_image`, or the picture has colors.
    """
    with _opened(path) as picture:
        upright = _upright(picture)
        if _is_deep(upright, picture.format):
            raw = np.asarray(upright)
            _refuse_out_of_range(raw, path)
            return raw.astype(np.uint16), 65535
        rgb = _rgb(upright, path)
    if (rgb != rgb[:, :, :1]).any():
        raise DataError(
            f"{path} is a color picture; expected one gray value per pixel. Save it as an 8-bit or 16-bit gray PNG."
        )
    return rgb[:, :, 0].astype(np.uint16), 255


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB uint8 (H, W, 3) atomically, as PNG or as JPEG (quality 92, full color resolution) by the suffix.

    Raises:
        ConfigError: Another suffix.
        ResourceError: The folder is not writable or the disk is full.
    """
    if path.suffix.lower() not in _WRITTEN:
        raise ConfigError(f"Cannot write {path}: got suffix '{path.suffix}', expected .png, .jpg or .jpeg.")
    with atomic_path(path) as temporary:
        # Pillow ignores JPEG's settings when the suffix asks for PNG.
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, quality=92, subsampling=0)


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture, refuse what must not be decoded, and turn every decoding failure into a `DataError`."""
    try:
        with Image.open(path if content is None else BytesIO(content)) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                raise DataError(
                    f"{path} is {picture.height} x {picture.width} px; expected at most {MAX_PIXELS:,} pixels. "
                    "Scale it down or cut it into tiles."
                )
            # An MPO is a still photograph followed by previews or a stereo partner; the first is the photograph.
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if frames != 1:
                raise DataError(
                    f"{path} holds {frames} frames; expected one still picture. Save the frame you mean as PNG."
                )
            yield picture
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; expected a picture. Correct the path, or restore the file (or what the link "
            "points to)."
        ) from None
    except PermissionError:
        raise DataError(
            f"{path} may not be read by this user; expected a readable picture. Change its access."
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path} {_what_is(path)}; expected a picture (PNG, JPEG, TIFF, BMP, ...). Replace it."
        ) from None
    except _DECODING_ERRORS as error:
        raise DataError(
            f"{path} cannot be decoded ({error}); expected an intact picture. Fetch or export the file again."
        ) from error


def _what_is(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return "cannot be read"
    return "is an empty file (0 bytes)" if size == 0 else f"is no picture that can be recognized ({size} bytes)"


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    return ImageOps.exif_transpose(picture)


def _is_deep(picture: Image.Image, source_format: str | None) -> bool:
    """Whether the picture is 16-bit gray; Pillow opens 16-bit PGM (and older PNG) as 32-bit integers."""
    return picture.mode in _SIXTEEN_BIT or (picture.mode == "I" and source_format in {"PNG", "PPM"})


def _refuse_out_of_range(raw: NDArray[np.generic], path: Path) -> None:
    low, high = int(raw.min()), int(raw.max())
    if low < 0 or high > 65535:
        raise DataError(f"{path} holds values from {low} to {high}; expected 16-bit gray, 0 to 65535. Export it again.")


def _rescale_16_bit(raw: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    _refuse_out_of_range(raw, path)
    return ((raw.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _rgb(picture: Image.Image, path: Path) -> NDArray[np.uint8]:
    if picture.mode in {"I", "F"} or picture.mode.startswith("I;"):
        raise DataError(
            f"{path} has {picture.mode} pixels (32-bit), whose range is not stated; expected 8-bit or 16-bit. "
            "Export it as an 8-bit PNG."
        )
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        color = picture.convert("RGBA")
        over_black = Image.new("RGBA", color.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(over_black, color)
    return np.asarray(picture.convert("RGB")).copy()
