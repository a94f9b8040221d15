"""Copies of a picture are found through what exporting does to them; different pictures are not."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medformer.data.frames.descriptors import (
    SIDE,
    THRESHOLD,
    THUMBNAIL_LENGTH,
    descriptor,
    pixel_hash,
    similar_frames,
    thumbnail,
)


def scene(seed: int, side: int = 160) -> np.ndarray:
    """A smooth colored texture with a black round border, as an endoscope would show it."""
    noise = np.random.default_rng(seed).standard_normal((side, side, 3))
    smooth = ndimage.gaussian_filter(noise, (side / 22, side / 22, 0), mode="wrap")
    smooth = 130 + smooth / smooth.std() * (45, 30, 25)
    rows, columns = np.ogrid[:side, :side]
    outside = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 > (0.49 * side) ** 2
    smooth[outside] = 5
    return np.clip(smooth, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "re-encoded": lambda image: jpeg(image, 30),
    "rescaled": lambda image: resized(image, 96, 96),
    "squeezed": lambda image: resized(image, 192, 144),
    "cropped": lambda image: image[6:-6, 4:-8],
    "brighter": lambda image: np.clip(image * 1.25, 0, 255).astype(np.uint8),
    "all of it": lambda image: jpeg(resized(np.clip(image[5:-3, 4:-4] * 0.85, 0, 255).astype(np.uint8), 120, 120), 50),
}


def search(*pictures: np.ndarray, sides: list[list[int]] | None = None) -> list[tuple[int, int]]:
    found = similar_frames([descriptor(image) for image in pictures], None if sides is None else np.array(sides))
    return [(match.first, match.second) for match in found]


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(name: str) -> None:
    pictures = [scene(0), scene(1), COPIES[name](scene(0))]
    assert search(*pictures) == [(0, 2)]


@pytest.mark.parametrize(("flip", "name"), [((1,), "left-right"), ((0,), "top-bottom"), ((0, 1), "half turn")])
def test_mirrored_copies_are_found_and_named(flip: tuple[int, ...], name: str) -> None:
    found = similar_frames([descriptor(scene(2)), descriptor(np.flip(scene(2), flip).copy())])
    assert [(match.mirrored, match.score > 0.95) for match in found] == [(name, True)]


def test_different_pictures_of_one_endoscope_are_not() -> None:
    assert search(*[scene(seed) for seed in range(60)]) == []


def test_blank_pictures_have_no_contents_to_compare() -> None:
    blank = np.full((50, 50, 3), 90, np.uint8)
    assert search(blank, blank, np.zeros_like(blank), blank[:1, :1]) == []
    assert descriptor(blank[:1, :1]).shape == (3, SIDE, SIDE)


def test_gray_copies_need_a_closer_match() -> None:
    gray = [np.repeat(scene(seed)[:, :, :1], 3, axis=2) for seed in range(30)]
    assert search(*gray, resized(gray[7], 90, 90)) == [(7, 30)]


def test_only_pairs_that_a_division_separates_are_looked_at() -> None:
    pictures = [scene(0), scene(0), scene(0)]
    assert search(*pictures) == [(0, 1), (0, 2), (1, 2)]
    assert search(*pictures, sides=[[0, 0, 1]]) == [(0, 2), (1, 2)]
    assert search(*pictures, sides=[[0, 0, -1], [0, 1, -1]]) == [(0, 1)]


def test_the_score_does_not_depend_on_the_order() -> None:
    pair = [descriptor(scene(0)), descriptor(COPIES["cropped"](scene(0)))]
    there, back = similar_frames(pair)[0].score, similar_frames(pair[::-1])[0].score
    assert there == pytest.approx(back, abs=0.05)
    assert THRESHOLD < there <= 1.0 + 1e-6


def test_fewer_than_two_pictures() -> None:
    assert search(scene(0)) == []
    assert similar_frames([]) == []


def test_the_pixel_hash_tells_shapes_apart() -> None:
    flat = np.zeros((2, 8, 3), np.uint8)
    assert pixel_hash(flat) == pixel_hash(flat.copy())
    assert pixel_hash(flat) != pixel_hash(flat.reshape(4, 4, 3))


def test_a_thumbnail_says_color_place_surround_and_sharpness() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, 45:] = (255, 0, 0)
    vector = thumbnail(image, (64, 64))
    assert vector.shape == (THUMBNAIL_LENGTH,)
    assert vector.dtype == np.float32
    small = vector[:192].reshape(8, 8, 3)
    np.testing.assert_allclose(small[:, 0], [[0, 0, 0]] * 8, atol=1e-6)
    np.testing.assert_allclose(small[:, -1], [[1, 0, 0]] * 8, atol=1e-6)
    np.testing.assert_allclose(vector[192:195], [0.5, 0, 0], atol=0.02)
    assert 0.4 < vector[198] < 0.6
    noisy = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    assert thumbnail(noisy, (64, 64))[199] > 5 * vector[199]
    assert np.isfinite(thumbnail(noisy, (1, 64))).all(), "an axis of one pixel has no neighbors"
