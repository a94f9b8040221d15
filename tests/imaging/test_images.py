"""Every kind of picture a user may hand in is either read by a stated rule or refused by name."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import ConfigError, DataError
from medformer.imaging import images
from medformer.imaging.images import image_info, image_size, read_image, write_image
from medformer.imaging.mask_rule import read_mask


@pytest.fixture
def rgb() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def test_rgb_png_is_read_exactly(tmp_path: Path, rgb: np.ndarray) -> None:
    path = save(tmp_path / "a.png", rgb)
    assert read_image(path).dtype == np.uint8
    assert np.array_equal(read_image(path), rgb)
    assert image_size(path) == (40, 60)


def test_gray_is_repeated_over_three_channels(tmp_path: Path, rgb: np.ndarray) -> None:
    found = read_image(save(tmp_path / "a.png", rgb[:, :, 0]))
    assert np.array_equal(found, np.repeat(rgb[:, :, :1], 3, axis=2))


def test_palette_colors_are_looked_up(tmp_path: Path) -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    array[2:5, 2:5] = (250, 10, 20)
    path = tmp_path / "a.png"
    Image.fromarray(array).quantize(4).save(path)
    assert image_info(path).mode == "P"
    assert np.array_equal(read_image(path), array)


def test_transparent_pixels_become_black(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:10] = 0
    found = read_image(save(tmp_path / "a.png", np.concatenate([rgb, alpha], axis=2)))
    assert not found[:10].any()
    assert np.array_equal(found[10:], rgb[10:])


def test_sixteen_bit_keeps_full_scale_and_is_not_stretched(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 514, 30000], [128, 129, 65535, 65534]], np.uint16)
    found = read_image(save(tmp_path / "a.png", deep))
    assert found[:, :, 0].tolist() == [[0, 1, 2, 117], [0, 1, 255, 255]]


def test_cmyk_jpeg_reads_as_rgb(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", np.full((16, 16, 3), (200, 80, 60), np.uint8), "CMYK", quality=95)
    assert image_info(path).mode == "CMYK"
    assert np.abs(read_image(path).astype(int) - (200, 80, 60)).max() < 12


def test_exif_orientation_is_applied(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", rgb, exif=exif)
    assert image_size(path) == (60, 40)
    assert np.array_equal(read_image(path), np.rot90(rgb, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_the_size_in_the_header_is_that_of_the_upright_picture(
    tmp_path: Path, rgb: np.ndarray, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a{suffix}", rgb, exif=exif)
    assert image_size(path) == ((60, 40) if orientation > 4 else (40, 60)) == read_image(path).shape[:2]


def test_one_pixel_and_a_very_large_picture(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "one.png", np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]
    large = save(tmp_path / "large.png", np.zeros((5000, 5000), np.uint8), compress_level=1)
    assert read_image(large).shape == (5000, 5000, 3)


def test_too_large_a_picture_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    path = save(tmp_path / "a.png", np.zeros((11, 10), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 11 x 10 px \(height x width\); expected at most 100"):
        read_image(path)
    # Pillow warns above its own limit, which is no more than the refusal says.
    monkeypatch.setattr(images.Image, "MAX_IMAGE_PIXELS", 105)
    with warnings.catch_warnings(record=True) as said, pytest.raises(DataError, match="expected at most 100"):
        read_image(path)
    assert not said
    # It refuses twice this limit itself; the advice is the same.
    monkeypatch.setattr(images.Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DataError, match=r"a\.png declares too many .* at most 100 pixels\. Scale it down"):
        read_image(path)


def test_links_are_followed(tmp_path: Path, rgb: np.ndarray) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(save(tmp_path / "a.png", rgb))
    assert np.array_equal(read_image(link), rgb)


@pytest.mark.parametrize("reader", [read_image, read_mask])
@pytest.mark.parametrize(
    ("suffix", "keep"), [(".jpg", 0.5), (".png", 0.5), (".jpg", 0.02), (".png", 0.02), (".png", 0.0)]
)
def test_truncated_and_empty_files_are_named(
    tmp_path: Path, rgb: np.ndarray, suffix: str, keep: float, reader: object
) -> None:
    path = save(tmp_path / f"cut{suffix}", rgb)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=rf"cut\{suffix}"):
        reader(path)  # type: ignore[operator]


def test_corrupt_jpeg_and_text_are_named(tmp_path: Path, rgb: np.ndarray) -> None:
    path = save(tmp_path / "bad.jpg", rgb)
    content = bytearray(path.read_bytes())
    content[2:200] = b"\x00" * 198
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        read_image(path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png is no picture .*expected a picture"):
        read_image(tmp_path / "text.png")


def test_missing_folder_and_broken_link_are_named(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name in ("none.png", "link.png"):
        with pytest.raises(DataError, match=rf"{name} does not exist"):
            read_image(tmp_path / name)
    with pytest.raises(DataError):
        read_image(tmp_path)


def test_content_decides_and_only_listed_formats_are_decoded(tmp_path: Path, rgb: np.ndarray) -> None:
    picture = Image.fromarray(rgb)
    for file_format in ("EPS", "ICNS", "TGA", "PCX", "JPEG2000", "DDS"):
        picture.save(tmp_path / "a.jpg", format=file_format)
        with pytest.raises(DataError, match=r"a\.jpg is no picture that can be recognized .*expected a picture \(PNG"):
            read_image(tmp_path / "a.jpg")
    picture.save(tmp_path / "b.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "b.jpg"), rgb)


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, fault in (("pipe", "is a named pipe"), ("folder", "is a folder"), ("loop", "is a link that leads to")):
        with pytest.raises(DataError, match=rf"{name}\.png {fault}"):
            read_image(tmp_path / f"{name}.png")


@pytest.mark.parametrize("suffix", [".gif", ".png", ".tif"])
def test_animations_and_multi_page_files_are_refused(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="holds 2 frames; expected one still picture"):
        read_image(path)


def test_pictures_without_a_stated_range_are_refused(tmp_path: Path) -> None:
    for dtype in (np.float32, np.int32):
        path = save(tmp_path / "a.tif", np.ones((4, 4), dtype))
        with pytest.raises(DataError, match="range is not stated"):
            read_image(path)


ROWS, COLUMNS = np.mgrid[:40, :50]
IMAGE = np.stack([5 * ROWS, 4 * COLUMNS, 2 * ROWS + 2 * COLUMNS], -1).astype(np.uint8)


def test_png_is_lossless(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    assert np.array_equal(read_image(tmp_path / "a.png"), IMAGE)


def test_jpeg_is_close_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "a.jpg", IMAGE)
    assert np.abs(read_image(tmp_path / "new" / "a.jpg").astype(int) - IMAGE).max() < 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.jpg"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.gif"):
        write_image(tmp_path / "a.gif", IMAGE)
    assert not list(tmp_path.iterdir())
