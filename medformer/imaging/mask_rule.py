"""Which pixels of a mask file are foreground: one rule for everything that reads one.

A file that keeps its values (PNG, TIFF, BMP, GIF, lossless WebP, ...) holds one of

* 0 and 1, or 0 and 255 (65535 in 16 bits): what is not 0 is foreground;
* black and one color that is not gray: the color is foreground;
* other values, of which the user names those that are foreground (`medformer.foreground`).

A file that does not keep them (JPEG, ...) has dark and bright pixels, and others only along the edges between them:
foreground is what reaches 128. Anything else is an error, with a histogram of what was found.

A palette whose colors are grays stands for these grays; of any other palette, numbers are the indices. Transparent
pixels are background, and a mask that shows nothing but its transparency is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medformer.errors import DataError
from medformer.foreground import Foreground, color, number_range
from medformer.imaging.images import is_deep, is_lossy, open_picture, over_black, require_sixteen_bits, upright

DARK, BRIGHT = 32, 223
"""The highest dark and the lowest bright value of a lossy mask."""

MIDDLE_SHARE = 0.1
"""Largest share of pixels between them. Contours blurred by compression stay below it."""

_BLOCK = 8
"""Pixels along the side of what JPEG compresses at once."""

_FLOOR = 4
"""What black may become over a region where colors are compressed."""

_STRAY = 2e-4
"""Share of pixels farther from an edge that are not dark or bright, and may be specks."""

_LISTED = 8
_WHITE = 7


class MaskValuesError(DataError):
    """A mask whose values do not say which pixels are foreground."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask that was read.

    Attributes:
        foreground: bool (H, W).
        value: The value that stands for foreground in the file, such as `1`, `255` or `ff0000`; empty where no pixel is
            foreground, or the user named the values.
    """

    foreground: NDArray[np.bool_]
    value: str = ""


def read_mask(path: Path, foreground: Foreground = ()) -> NDArray[np.bool_]:
    """Read the foreground of a mask, bool (H, W); see `decode_mask`."""
    return decode_mask(path, foreground).foreground


def decode_mask(path: Path, foreground: Foreground = (), content: bytes | None = None) -> Mask:
    """Decode a mask by the rule above.

    Args:
        path: The file.
        foreground: The values that are foreground; empty where the file itself must tell.
        content: The bytes of the file, where they were read before; the file is not opened then.

    Raises:
        MaskValuesError: The values do not tell, with a histogram.
        DataError: As `medformer.imaging.images.read_image`.
    """
    with open_picture(path, content) as picture:
        lossy, floor = is_lossy(picture, path, content), 0 if picture.mode == "L" else _FLOOR
        pixels = _pixels(upright(picture), picture.format, path)
    if lossy:
        return _lossy(path, pixels, floor, foreground)
    return Mask(_named(pixels, foreground)) if foreground else _lossless(path, pixels)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """What a picture stores.

    Attributes:
        values: (H, W): gray values, indices of a palette, or colors as 0xRRGGBB.
        kind: Which of these.
        palette: Color of each index, 0xRRGGBB; empty without a palette.
    """

    values: NDArray[np.integer[Any]]
    kind: Literal["gray", "index", "color"]
    palette: NDArray[np.uint32]

    def distinct(self) -> dict[int, int]:
        """How many pixels have each value that occurs, in the order of the values."""
        if self.kind == "color":
            values, counts = np.unique(self.values, return_counts=True)
        else:
            counts = np.bincount(self.values.ravel())
            values = np.flatnonzero(counts)
            counts = counts[values]
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def color_of(self, value: int) -> int:
        """The color that a value shows, as 0xRRGGBB; of 16 bits, -1."""
        if self.kind == "index":
            return int(self.palette[value])
        return value if self.kind == "color" else value * 0x010101 if value <= 255 else -1

    def name(self, value: int) -> str:
        """A value in words."""
        if self.kind == "index":
            return f"index {value} (color {self.color_of(value):06x})"
        return f"color {value:06x}" if self.kind == "color" else str(value)

    def histogram(self) -> str:
        """The most frequent values with their shares."""
        counts = self.distinct()
        most = sorted(sorted(counts, key=lambda value: -counts[value])[:_LISTED])
        listed = ", ".join(f"{self.name(value)}: {counts[value] / self.values.size:.2%}" for value in most)
        return listed + (f", and {len(counts) - len(most)} other values" if len(counts) > len(most) else "")


def _pixels(picture: Image.Image, file_format: str | None, path: Path) -> _Pixels:
    none = np.empty(0, np.uint32)
    if is_deep(picture, file_format):
        return _Pixels(require_sixteen_bits(np.asarray(picture), path), "gray", none)
    if picture.mode == "1":
        return _Pixels(np.asarray(picture) * np.uint8(255), "gray", none)
    if picture.mode == "L" and not picture.has_transparency_data:
        return _Pixels(np.asarray(picture), "gray", none)
    shown = over_black(picture, path)
    _require_colors(picture, shown, path)
    red, green, blue = np.moveaxis(shown, 2, 0)
    if picture.mode == "P" and "transparency" not in picture.info:
        indices = np.asarray(picture)
        palette = np.zeros(256, np.uint32)
        palette[indices] = _packed(shown)
        used = palette[np.flatnonzero(np.bincount(indices.ravel()))]
        grays = used == (used & 255) * 0x010101
        if not grays.all() or len(np.unique(used)) < len(used):
            return _Pixels(indices, "index", palette)
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return _Pixels(red, "gray", none)
    return _Pixels(_packed(shown), "color", none)


def _packed(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    red, green, blue = np.moveaxis(rgb.astype(np.uint32), 2, 0)
    return cast("NDArray[np.uint32]", (red << 16) | (green << 8) | blue)


def _require_colors(picture: Image.Image, shown: NDArray[np.uint8], path: Path) -> None:
    """Refuse a mask that shows black alone, where its transparency or what it hides says more."""
    if not picture.has_transparency_data or shown.any():
        return
    rgba = np.asarray(picture.convert("RGBA"))
    opaque = rgba[..., 3] > 0
    if (rgba[..., 3] == 255).all() or not (opaque.any() or rgba[..., :3].any()):
        return
    raise MaskValuesError(
        f"{path} shows only black, and {opaque.mean():.2%} of its pixels are opaque: its alpha channel or its hidden "
        "colors hold the mask. Save it as a gray PNG without transparency: 0 for background, 255 for foreground."
    )


def _lossless(path: Path, pixels: _Pixels) -> Mask:
    values, top = pixels.values, int(pixels.values.max())
    two = np.count_nonzero(values == top) + np.count_nonzero(values == 0) == values.size
    if pixels.kind == "gray" and two and top in (1, 255, 65535):
        return Mask(values > 0, str(top))
    if top == 0 and pixels.kind == "gray":
        return Mask(np.zeros(values.shape, np.bool_))
    found = pixels.distinct()
    colors = {pixels.color_of(value): value for value in found}
    if pixels.kind != "gray" and len(found) == len(colors) <= 2 and 0 in colors:
        shown = max(colors)
        return Mask(values == colors[shown], f"{shown:06x}")
    likely = [value for value in found if value] or list(found)
    example = "128-255" if len(found) > _LISTED else _option(pixels, max(likely, key=lambda value: found[value]))
    raise MaskValuesError(
        f"{path} holds {pixels.histogram()}; expected 0 and 1, 0 and 255, or black and one color. Name the values that "
        f"are foreground, such as --foreground {example}, or save the mask again with 0 and 255."
    )


def _option(pixels: _Pixels, value: int) -> str:
    return f"{value:06x}" if pixels.kind == "color" else str(value)


def _named(pixels: _Pixels, foreground: Foreground) -> NDArray[np.bool_]:
    chosen = np.zeros(pixels.values.shape, np.bool_)
    for value in pixels.distinct():
        if any(_is_named(pixels, value, name) for name in foreground):
            chosen |= pixels.values == value
    return chosen


def _is_named(pixels: _Pixels, value: int, name: str) -> bool:
    limits = number_range(name)
    if limits is None:
        return pixels.color_of(value) == color(name)
    if pixels.kind == "color":
        gray = value & 255
        return value == gray * 0x010101 and limits[0] <= gray <= limits[1]
    return limits[0] <= value <= limits[1]


def _lossy(path: Path, pixels: _Pixels, floor: int, foreground: Foreground) -> Mask:
    values = pixels.values
    channels = [values >> 16, values >> 8 & 255, values & 255] if pixels.kind == "color" else [values]
    brightest = np.maximum.reduce(channels).astype(np.uint8)
    _require_contrast(path, brightest, floor)
    if len(channels) == 1:
        codes = (brightest >= 128) * np.uint8(_WHITE)
    else:
        codes = sum(((part >= 128) * np.uint8(bit) for part, bit in zip(channels, (4, 2, 1), strict=True)), np.uint8(0))
    if foreground:
        wanted = [code for name in foreground for code in _lossy_codes(path, name)]
        return Mask(np.isin(codes, wanted))
    counts = np.bincount(codes.ravel(), minlength=8)
    present = [code for code in range(1, 8) if counts[code]]
    if not present:
        return Mask(codes > 0)
    # Along an edge, colors mix; a region has an inside.
    several = len(present) > 1
    inside = [code for code in present if several and ndimage.binary_erosion(codes == code, iterations=2).any()]
    if len(inside) > 1:
        colors = ", ".join(f"{_color_of(code):06x}" for code in inside)
        raise MaskValuesError(
            f"{path} has regions of the colors {colors}; expected black and one color. Name those that are foreground, "
            f"such as --foreground {_color_of(inside[0]):06x}, or save the mask again with 0 and 255."
        )
    shown = _color_of(max(inside or present, key=lambda code: counts[code]))
    return Mask(codes > 0, "255" if shown == 0xFFFFFF else f"{shown:06x}")


def _color_of(code: int) -> int:
    return 0xFF0000 * (code >> 2) | 0x00FF00 * (code >> 1 & 1) | 0x0000FF * (code & 1)


def _lossy_codes(path: Path, name: str) -> list[int]:
    """The codes of the dark, bright or colored pixels that a name stands for."""
    limits = number_range(name)
    if limits is not None:
        codes = [0] * (limits[0] == 0) + [_WHITE] * (limits[1] >= 255)
        if codes:
            return codes
    else:
        shown = color(name) or 0
        parts = [shown >> 16, shown >> 8 & 255, shown & 255]
        if all(part <= DARK or part >= BRIGHT for part in parts):
            return [sum(bit * (part >= BRIGHT) for part, bit in zip(parts, (4, 2, 1), strict=True))]
    raise MaskValuesError(
        f"{path} is compressed with loss, which does not keep the value {name}. Save the mask as PNG from its source."
    )


def _require_contrast(path: Path, brightest: NDArray[np.uint8], floor: int) -> None:
    """Refuse a lossy mask that is not dark and bright, with anything else along edges only.

    Args:
        path: For the message.
        brightest: Of the channels of each pixel.
        floor: What black may become.
    """
    bright, dark = brightest >= BRIGHT, brightest <= DARK
    middle = ~(bright | dark)
    by_bright, by_dark = _near(bright), _near(dark)
    stray = np.count_nonzero(_in_blocks(middle) & ~(by_bright & by_dark)[:, None, :, None]) / middle.size
    # Noise comes in specks and single blocks; a class number as small as noise fills a region.
    faint = np.logical_and.reduce(_in_blocks(dark & (brightest > floor)), (1, 3)) & ~by_bright
    region = ndimage.minimum_filter(faint, size=3, mode="constant").any()
    if bright.any() and middle.mean() <= MIDDLE_SHARE and stray <= _STRAY and not region:
        return
    if brightest.max() <= floor and brightest.min() == brightest.max():
        return
    raise MaskValuesError(
        f"{path} has {dark.mean():.2%} dark pixels (0-{DARK}), {bright.mean():.2%} bright ones ({BRIGHT}-255) and "
        f"{middle.mean():.2%} between them, and regions far from any edge that are neither black nor white. "
        f"Expected black and white, at most {MIDDLE_SHARE:.0%} between. Values do not survive in a file that is "
        "compressed with loss: save the mask as PNG from its source, with 0 and 255."
    )


def _in_blocks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """View a mask as blocks, (rows, _BLOCK, columns, _BLOCK), which its repeated edges fill."""
    missing = [(0, -length % _BLOCK) for length in mask.shape]
    whole = np.pad(mask, missing, mode="edge") if any(after for _, after in missing) else mask
    return whole.reshape(whole.shape[0] // _BLOCK, _BLOCK, whole.shape[1] // _BLOCK, _BLOCK)


def _near(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which blocks have a pixel of the mask within reach of noise: two blocks, since colors are stored at half size."""
    filled = np.logical_or.reduce(_in_blocks(mask), (1, 3))
    return np.asarray(ndimage.maximum_filter(filled, size=5, mode="constant"), np.bool_)
