"""One rule says which pixels of a mask are foreground; what it cannot tell is refused with a histogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import DataError
from medformer.foreground import parse_foreground
from medformer.imaging.images import image_info
from medformer.imaging.mask_rule import MaskValuesError, decode_mask, read_mask


def square(value: int = 255, dtype: type = np.uint8, size: int = 64) -> np.ndarray:
    mask = np.zeros((size, size), dtype)
    mask[size // 4 : size // 2, size // 4 : 3 * size // 4] = value
    return mask


FOREGROUND = square() > 0


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def with_void(value: int = 255) -> np.ndarray:
    """A label map of 0 and 1 with an outline of another value."""
    mask = square(1)
    mask[15, 15:49] = mask[32, 15:49] = value
    return mask


def painted(path: Path, indices: np.ndarray, palette: list[int]) -> Path:
    picture = Image.fromarray(indices)
    picture.putpalette(palette)
    picture.save(path)
    return path


def rgba(color: tuple[int, int, int], alpha: np.ndarray) -> np.ndarray:
    return np.dstack([np.full((*alpha.shape, 3), color, np.uint8), alpha])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_a_mask_reads_the_same_in_every_mode(tmp_path: Path, mode: str) -> None:
    found = decode_mask(save(tmp_path / "m.tif", square(), mode))
    assert np.array_equal(found.foreground, FOREGROUND)
    assert found.value == "255"


@pytest.mark.parametrize("value", [255, 65535, 1])
def test_sixteen_bits(tmp_path: Path, value: int) -> None:
    found = decode_mask(save(tmp_path / "m.png", square(value, np.uint16)))
    assert np.array_equal(found.foreground, FOREGROUND)
    assert found.value == str(value)


@pytest.mark.parametrize("name", ["m.png", "m.bmp", "m.gif", "m.tif", "m.pgm", "m.webp"])
@pytest.mark.parametrize("value", [1, 255])
def test_every_format_that_keeps_values(tmp_path: Path, name: str, value: int) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    assert np.array_equal(read_mask(save(tmp_path / name, square(value), **options)), FOREGROUND)


@pytest.mark.parametrize(("value", "full"), [(0, False), (1, True), (255, True)])
def test_one_value_everywhere(tmp_path: Path, value: int, full: bool) -> None:
    assert (read_mask(save(tmp_path / "m.png", np.full((8, 8), value, np.uint8))) == full).all()


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (with_void(), "0: 85.84%, 1: 12.50%, 255: 1.66%"),
        (square(2), "0: 87.50%, 2: 12.50%"),
        (square(128), "0: 87.50%, 128: 12.50%"),
        (np.full((8, 8), 7, np.uint8), "7: 100.00%"),
        (square(256, np.uint16), "0: 87.50%, 256: 12.50%"),
    ],
)
def test_other_values_are_refused_with_a_histogram(tmp_path: Path, mask: np.ndarray, found: str) -> None:
    with pytest.raises(MaskValuesError, match=rf"m\.png holds {found}; expected 0 and 1, 0 and 255.* --foreground \d"):
        read_mask(save(tmp_path / "m.png", mask))


def test_a_soft_edge_is_refused_and_a_range_reads_it(tmp_path: Path) -> None:
    soft = Image.fromarray(square()).resize((200, 200), Image.Resampling.BICUBIC)
    soft.save(tmp_path / "m.png")
    with pytest.raises(MaskValuesError, match=r"other values; .* --foreground 128-255"):
        read_mask(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", ("128-255",)), np.asarray(soft) >= 128)


@pytest.mark.parametrize("color", [(255, 0, 0), (128, 0, 0), (0, 0, 40), (0, 220, 10)])
@pytest.mark.parametrize("kind", ["palette", "rgb"])
def test_black_and_one_color(tmp_path: Path, kind: str, color: tuple[int, int, int]) -> None:
    path = tmp_path / "m.png"
    if kind == "palette":
        painted(path, square(1), [0, 0, 0, *color])
        assert image_info(path).mode == "P"
    else:
        save(path, np.where(FOREGROUND[..., None], np.array(color, np.uint8), 0).astype(np.uint8))
    found = decode_mask(path)
    assert np.array_equal(found.foreground, FOREGROUND)
    assert found.value == "{:02x}{:02x}{:02x}".format(*color)


def test_colors_that_do_not_tell_are_refused_and_can_be_named(tmp_path: Path) -> None:
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    indices = square(1)
    indices[40:50] = 2
    path = painted(tmp_path / "m.png", indices, palette)
    with pytest.raises(MaskValuesError, match=r"index 1 \(color 800000\).*index 2 \(color 008000\).*--foreground 2"):
        read_mask(path)
    assert np.array_equal(read_mask(path, ("1",)), indices == 1)
    assert np.array_equal(read_mask(path, ("800000", "2")), indices > 0)
    with pytest.raises(MaskValuesError, match="index 1"):
        read_mask(painted(path, square(1), [0] * 6))
    with pytest.raises(MaskValuesError, match=r"60: 12.50%"):
        read_mask(painted(path, square(1), [0, 0, 0, 60, 60, 60]))
    with pytest.raises(MaskValuesError, match="color ff0000: 100"):
        read_mask(save(path, np.full((8, 8, 3), (255, 0, 0), np.uint8)))


def test_named_values_are_foreground_and_all_others_background(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", with_void())
    assert np.array_equal(read_mask(path, ("1",)), with_void() == 1)
    assert np.array_equal(read_mask(path, ("1", "255")), with_void() > 0)
    assert np.array_equal(read_mask(path, ("1-255",)), with_void() > 0)
    assert decode_mask(path, ("1",)).value == ""
    assert not read_mask(path, ("2",)).any()


@pytest.mark.parametrize(
    ("text", "names"),
    [("1,2", ("1", "2")), ("#FF0000; 128-255 1", ("ff0000", "128-255", "1")), ("800000", ("800000",)), ("", ())],
)
def test_names_of_values(text: str, names: tuple[str, ...]) -> None:
    assert parse_foreground(text) == names


@pytest.mark.parametrize("text", ["red", "70000", "5-2", "-1", "1.5", ",", "\u00b2"])
def test_what_names_no_value(text: str) -> None:
    with pytest.raises(ValueError, match="expected mask values such as 1"):
        parse_foreground(text)


def test_transparent_pixels_are_background(tmp_path: Path) -> None:
    for picture in (rgba((255, 255, 255), square()), np.dstack([square()] * 4)):
        assert np.array_equal(read_mask(save(tmp_path / "m.png", picture)), FOREGROUND)
    assert not read_mask(save(tmp_path / "m.png", np.zeros((8, 8, 4), np.uint8))).any()
    assert not read_mask(save(tmp_path / "m.png", rgba((0, 0, 0), np.full((8, 8), 255, np.uint8)))).any()


@pytest.mark.parametrize(
    "picture",
    [rgba((0, 0, 0), square()), rgba((0, 0, 0), 255 - square()), np.dstack([*[square()] * 3, 0 * square()])],
)
def test_a_mask_in_the_alpha_channel_or_below_it_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(MaskValuesError, match=r"shows only black, and .* of its pixels are opaque"):
        read_mask(save(tmp_path / "m.png", picture))


def test_a_half_transparent_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskValuesError, match=r"100: 12.50%"):
        read_mask(save(tmp_path / "m.png", rgba((255, 255, 255), square(100))))


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize("name", ["m.jpg", "m.webp"])
@pytest.mark.parametrize("color", [(255, 255, 255), (255, 0, 0)])
def test_noise_of_compression_does_not_move_a_mask(
    tmp_path: Path, name: str, quality: int, color: tuple[int, int, int]
) -> None:
    rows, columns = np.mgrid[:200, :300]
    disc = (rows - 90) ** 2 + (columns - 150) ** 2 < 50**2
    speck = (rows - 180) ** 2 + (columns - 30) ** 2 < 6**2
    truth = disc | speck
    drawn = np.where(truth[..., None], np.array(color, np.uint8), 0).astype(np.uint8)
    assert np.mean(read_mask(save(tmp_path / name, drawn, quality=quality)) != truth) < 0.005
    assert not read_mask(save(tmp_path / "empty.jpg", np.zeros((64, 64), np.uint8), quality=quality)).any()


@pytest.mark.parametrize("value", [1, 2, 20, 100, 128, 200])
@pytest.mark.parametrize("name", ["m.jpg", "m.webp"])
def test_numbers_do_not_survive_compression_and_are_refused(tmp_path: Path, name: str, value: int) -> None:
    path = save(tmp_path / name, square(value, size=128), quality=95)
    with pytest.raises(MaskValuesError, match=r"bright ones.* save the mask as PNG"):
        read_mask(path)


def test_a_class_number_beside_white_is_refused_in_a_lossy_file(tmp_path: Path) -> None:
    mask = square(255, size=256)
    mask[180:220, 100:150] = 110
    with pytest.raises(MaskValuesError, match="far from any edge"):
        read_mask(save(tmp_path / "m.jpg", mask))
    mask[180:220, 100:150] = 3
    with pytest.raises(MaskValuesError, match="far from any edge"):
        read_mask(save(tmp_path / "m.jpg", mask, quality=95))


def test_two_colors_in_a_lossy_file(tmp_path: Path) -> None:
    colors = np.zeros((128, 128, 3), np.uint8)
    colors[20:60, 20:60], colors[70:100, 70:100] = (255, 0, 0), (0, 255, 0)
    path = save(tmp_path / "m.jpg", colors, quality=90)
    with pytest.raises(MaskValuesError, match="regions of the colors 00ff00, ff0000"):
        read_mask(path)
    assert np.mean(read_mask(path, ("ff0000",)) != (colors[..., 0] > 0)) < 0.01
    assert np.mean(read_mask(path, ("ff0000", "00ff00")) != (colors.max(2) > 0)) < 0.01
    with pytest.raises(MaskValuesError, match="does not keep the value 3"):
        read_mask(path, ("3",))


def test_a_broken_file_is_no_question_of_values(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no picture") as caught:
        read_mask(tmp_path / "m.png")
    assert not isinstance(caught.value, MaskValuesError)


@pytest.mark.real_data
def test_public_masks_are_read(medformer_data: Path) -> None:
    for folder in sorted((medformer_data / "polyp").glob("*/masks")):
        for path in sorted(folder.iterdir())[::97]:
            found = decode_mask(path)
            assert found.value == "255" and found.foreground.any()
