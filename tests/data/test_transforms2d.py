from __future__ import annotations

import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from medformer.config import AugmentConfig
from medformer.data.frames.transforms import MEAN, STD, Augmentation, normalize, resize_image, resize_mask

GEOMETRY = AugmentConfig(flip=0.5, rotate90=True, affine=1.0, color=0.0, blur=0.0)
ALL = AugmentConfig(flip=0.5, rotate90=True, affine=1.0, color=1.0, blur=1.0)
NONE = AugmentConfig(flip=0.0, rotate90=False, affine=0.0, color=0.0, blur=0.0)


def _pair(height: int = 96, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows - 0.4 * height) / (0.25 * height)) ** 2 + ((columns - 0.6 * width) / (0.15 * width)) ** 2 < 1
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[..., 0] = 255 * mask
    return image, mask


def test_the_number_of_threads_changes_nothing() -> None:
    # A loader process has one thread, and the main process several.
    image, mask = _pair(500, 640)
    augmentation, found, threads = Augmentation(ALL), [], cv2.getNumThreads()
    try:
        for number in (1, 3):
            cv2.setNumThreads(number)
            found.append([part for seed in range(6) for part in augmentation(image, mask, seed)])
            found[-1].append(resize_image(image, (99, 120)))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("shape", [(96, 96), (96, 120), (121, 75)])
def test_mask_moves_with_the_image(shape: tuple[int, int]) -> None:
    image, mask = _pair(*shape)
    augmentation = Augmentation(GEOMETRY)
    for seed in range(40):
        moved, moved_mask = augmentation(image, mask, seed)
        seen = moved[..., 0] >= 128
        assert moved.shape == image.shape and moved.dtype == np.uint8
        assert moved_mask.shape == mask.shape and moved_mask.dtype == np.bool_
        assert (seen & moved_mask).sum() / (seen | moved_mask).sum() > 0.95, seed


def test_same_seed_replays_and_other_seeds_differ() -> None:
    image, mask = _pair()
    augmentation = Augmentation(ALL)
    first = [augmentation(image, mask, seed) for seed in range(12)]
    again = [Augmentation(ALL)(image, mask, seed) for seed in reversed(range(12))][::-1]
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert np.array_equal(a, c) and np.array_equal(b, d)
    assert len({a.tobytes() for a, _ in first}) == 12


def test_global_random_state_is_neither_read_nor_changed() -> None:
    image, mask = _pair()
    random.seed(1)
    np.random.seed(1)
    before = (random.getstate(), np.random.get_state()[1].tobytes())
    first = Augmentation(ALL)(image, mask, 5)[0]
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before
    random.seed(2)
    np.random.seed(2)
    assert np.array_equal(first, Augmentation(ALL)(image, mask, 5)[0])


def test_threads_give_what_one_thread_gives() -> None:
    image, mask = _pair()
    augmentation = Augmentation(ALL)
    expected = [augmentation(image, mask, seed)[0].tobytes() for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: augmentation(image, mask, seed)[0].tobytes(), range(40))) == expected


def test_another_process_gives_the_same_pixels() -> None:
    image, mask = _pair()
    augmentation = pickle.loads(pickle.dumps(Augmentation(ALL)))
    digest = int(augmentation(image, mask, 7)[0].astype(np.int64).sum())
    code = (
        "import pickle, sys, numpy as np\n"
        "augmentation, image, mask = pickle.loads(sys.stdin.buffer.read())\n"
        "print(augmentation(image, mask, 7)[0].astype(np.int64).sum())"
    )
    content = pickle.dumps((Augmentation(ALL), image, mask))
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert int(done.stdout) == digest


def test_flips_are_independent_of_each_other() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 255
    flips = Augmentation(AugmentConfig(flip=0.5, rotate90=False, affine=0.0, color=0.0, blur=0.0))
    corners = [tuple(np.argwhere(flips(image, image[..., 0], seed)[0][..., 0])[0]) for seed in range(200)]
    for corner in [(0, 0), (0, 7), (7, 0), (7, 7)]:
        assert 25 <= corners.count(corner) <= 75


def test_nothing_asked_changes_nothing() -> None:
    image, mask = _pair()
    moved, moved_mask = Augmentation(NONE)(image, mask, 3)
    assert np.array_equal(moved, image) and np.array_equal(moved_mask, mask)


def test_color_and_blur_leave_the_mask_alone_and_change_the_image() -> None:
    image, mask = _pair()
    photometric = Augmentation(AugmentConfig(flip=0.0, rotate90=False, affine=0.0, color=1.0, blur=1.0))
    for seed in range(5):
        moved, moved_mask = photometric(image, mask, seed)
        assert np.array_equal(moved_mask, mask) and not np.array_equal(moved, image)


def test_the_arguments_are_not_written_to() -> None:
    image, mask = _pair()
    copies = image.copy(), mask.copy()
    for seed in range(10):
        Augmentation(ALL)(image, mask, seed)
    assert np.array_equal(image, copies[0]) and np.array_equal(mask, copies[1])


def test_normalize_follows_the_formula() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = (image / 255.0 - np.array(MEAN)) / np.array(STD)
    got = normalize(image)
    assert got.dtype == np.float32 and got.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (96, 120), (200, 64), (300, 400), (1, 1)])
def test_resize_gives_the_size_and_keeps_the_shape(size: tuple[int, int]) -> None:
    image, mask = _pair()
    assert resize_image(image, size).shape == (*size, 3)
    small = resize_mask(mask, size)
    assert small.shape == size and small.dtype == np.bool_
    if min(size) > 30:
        assert abs(small.mean() - mask.mean()) < 0.01


def test_shrinking_does_not_alias() -> None:
    checkers = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    small = resize_image(np.repeat(checkers.astype(np.uint8)[..., None], 3, 2), (16, 16))
    assert small.min() >= 126 and small.max() <= 129


def test_resize_mask_reads_any_nonzero_value_as_set() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 2:] = 1
    assert np.array_equal(resize_mask(mask, (2, 2)), [[False, True], [False, True]])
