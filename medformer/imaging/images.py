"""Reading and writing photographs; `mask_rule` reads masks, and `masks` writes them.

Nothing else opens a picture. Reading follows the same rules for every mode of the formats in `FORMATS`:

* EXIF orientation is applied. Color profiles are ignored.
* Transparent pixels are shown over black, the color of an endoscope's border.
* 16-bit gray is divided by 257, so that full scale maps to full scale; a picture is never stretched by its
  own minimum and maximum, because the same tissue would then look different from case to case.
* Floating-point and 32-bit pictures are refused: their range is not stated anywhere in the file.
* Animations and multi-page files are refused: it is not known which frame is meant.
* Pictures above `MAX_PIXELS` are refused before they are decoded.
* What a file is, its content says and not its name. Only the decoders of these formats are tried, since others start
  further programs (PostScript) or are seldom used and little tested.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from medformer.errors import ConfigError, DataError, ResourceError
from medformer.files import atomic_path, file_fault

MAX_PIXELS = 80_000_000
"""Largest picture that is decoded (height times width); 5000 x 5000 is 25 million."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""Pillow's names of the formats that are read; its JPEG includes MPO."""

_WRITTEN = {".png", ".jpg", ".jpeg"}
_EXIF_ORIENTATION = 0x0112
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
_ROWS, _COLUMNS = 257, 256
_SWAPPED = {5, 6, 7, 8}
_LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp"}
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
    with open_picture(path, content) as picture:
        height, width = picture.height, picture.width
        if isinstance(picture, TiffImageFile):
            # As stored: since version 11, Pillow's own numbers of a TIFF are those after the rotation.
            height, width = int(picture.tag_v2[_ROWS]), int(picture.tag_v2[_COLUMNS])
        if picture.getexif().get(_EXIF_ORIENTATION, 1) in _SWAPPED:
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
    with open_picture(path, content) as picture:
        turned = upright(picture)
        if is_deep(turned, picture.format):
            # Full scale goes to full scale.
            gray = ((require_sixteen_bits(np.asarray(turned), path).astype(np.uint32) + 128) // 257).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        return over_black(turned, path)


def read_gray16(path: Path) -> tuple[NDArray[np.uint16], int]:
    """Decode a gray picture at its own depth: the values and the value of full scale (255 or 65535).

    Returns:
        uint16 (H, W), and full scale.

    Raises:
        DataError: As `read_image`, or the picture has colors or transparent pixels.
    """
    with open_picture(path) as picture:
        turned = upright(picture)
        if is_deep(turned, picture.format):
            return require_sixteen_bits(np.asarray(turned), path), 65535
        if turned.has_transparency_data and np.asarray(turned.convert("RGBA"))[..., 3].min() < 255:
            raise DataError(
                f"{path} has transparent pixels; expected one gray value per pixel. Save it as a gray PNG without an "
                "alpha channel."
            )
        rgb = over_black(turned, path)
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
def open_picture(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture, refuse what must not be decoded, and turn every decoding failure into a `DataError`."""
    try:
        if content is None:
            fault = file_fault(path)
            if fault:
                raise DataError(f"{path} {fault}; expected a picture. Correct the path, or restore the file.")
        with warnings.catch_warnings():
            # Pillow warns of pictures that are refused below, where the message says what to do.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path if content is None else BytesIO(content), formats=FORMATS)
        with opened as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                raise DataError(_too_large(path, f"is {picture.height} x {picture.width} px (height x width)"))
            # An MPO is a still photograph followed by previews or a stereo partner; the first is the photograph.
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if frames != 1:
                raise DataError(
                    f"{path} holds {frames} frames; expected one still picture. Save the frame you mean as PNG."
                )
            yield picture
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            f"{path} {_what_is(path)}; expected a picture ({', '.join(FORMATS)}). Replace it, or save it as PNG."
        ) from None
    except Image.DecompressionBombError as error:
        # Pillow refuses the very largest itself, before their size can be asked for.
        raise DataError(_too_large(path, f"declares too many pixels ({error})")) from None
    except MemoryError:
        raise ResourceError(
            f"{path} takes more memory to decode than there is, or is damaged and declares too much. Close other "
            "programs; if it stays so, fetch or export the file again."
        ) from None
    except _DECODING_ERRORS as error:
        raise DataError(
            f"{path} cannot be decoded ({error}); expected an intact picture. Fetch or export the file again."
        ) from error


def _too_large(path: Path, what: str) -> str:
    return f"{path} {what}; expected at most {MAX_PIXELS:,} pixels. Scale it down or cut it into tiles."


def _what_is(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return "cannot be read"
    if size == 0:
        return "is an empty file (0 bytes)"
    return f"is no picture that can be recognized ({size} byte{'s' * (size > 1)})"


def is_lossy(picture: Image.Image, path: Path, content: bytes | None = None) -> bool:
    """Whether the file of an open picture keeps its values only approximately."""
    if picture.format == "WEBP":
        return not _webp_is_lossless(path.read_bytes() if content is None else content)
    if picture.format == "TIFF":
        return picture.info.get("compression") in _LOSSY_TIFF
    return picture.format in {"JPEG", "MPO"}


def _webp_is_lossless(content: bytes) -> bool:
    """Find the part of a WebP file that holds the pixels: VP8L keeps values, VP8 does not."""
    start = 12
    while start + 8 <= len(content):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        start += 8 + size + size % 2
    return False


def upright(picture: Image.Image) -> Image.Image:
    """Decode an open picture and turn it, in place, as its EXIF orientation says."""
    picture.load()
    # In place, because most pictures are upright and would be copied for nothing.
    ImageOps.exif_transpose(picture, in_place=True)
    return picture


def is_deep(picture: Image.Image, source_format: str | None) -> bool:
    """Whether the picture is 16-bit gray; Pillow opens 16-bit PGM (and older PNG) as 32-bit integers."""
    return picture.mode in _SIXTEEN_BIT or (picture.mode == "I" and source_format in {"PNG", "PPM"})


def require_sixteen_bits(raw: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    """Return the values of a deep picture.

    Raises:
        DataError: They leave the range of 16 bits.
    """
    low, high = int(raw.min()), int(raw.max())
    if low < 0 or high > 65535:
        raise DataError(f"{path} holds values from {low} to {high}; expected 16-bit gray, 0 to 65535. Export it again.")
    return raw.astype(np.uint16)


def over_black(picture: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Return the colors of a picture, uint8 (H, W, 3), transparent pixels over black.

    Raises:
        DataError: They are of a kind whose range is not known.
    """
    if picture.mode in {"I", "F"} or picture.mode.startswith("I;"):
        raise DataError(
            f"{path} has {picture.mode} pixels (32-bit), whose range is not stated; expected 8-bit or 16-bit. "
            "Export it as an 8-bit PNG."
        )
    if picture.has_transparency_data:
        color = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", color.size, (0, 0, 0, 255)), color)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
