from __future__ import annotations

from pathlib import Path

import numpy as np

from medformer.data.frames.thumbnails import LENGTH, thumbnail, thumbnails
from medformer.data.manifest import Case
from medformer.imaging.images import write_image


def test_a_thumbnail_says_color_place_surround_and_sharpness() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, 45:] = (255, 0, 0)
    vector = thumbnail(image, (64, 64))
    assert vector.shape == (LENGTH,)
    assert vector.dtype == np.float32
    small = vector[:192].reshape(8, 8, 3)
    np.testing.assert_allclose(small[:, 0], [[0, 0, 0]] * 8, atol=1e-6)
    np.testing.assert_allclose(small[:, -1], [[1, 0, 0]] * 8, atol=1e-6)
    np.testing.assert_allclose(vector[192:195], [0.5, 0, 0], atol=0.02)
    assert 0.4 < vector[198] < 0.6
    noisy = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    assert thumbnail(noisy, (64, 64))[199] > 5 * vector[199]


def test_every_case_gets_one(tmp_path: Path) -> None:
    cases = []
    for index, size in enumerate([(40, 50), (50, 40)]):
        path = tmp_path / f"{index}.png"
        write_image(path, np.full((*size, 3), 40 * index, np.uint8))
        cases.append(Case(f"c{index}", path, None, "g", "s", "", ""))
    found = thumbnails(cases, (32, 32))
    assert list(found) == ["c0", "c1"]
    assert found["c1"][0] == np.float32(40 / 255)
