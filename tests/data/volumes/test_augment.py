from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from medformer.config import VolumeAugmentConfig
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.deformation import cut

SPACING = (1.0, 1.2, 2.0)
SIZE = (20, 24, 16)
NAMES = tuple(VolumeAugmentConfig.model_fields)
OFF = dict.fromkeys(NAMES, 0.0)
ALL = VolumeAugmentation(VolumeAugmentConfig(**dict.fromkeys(NAMES, 1.0)), SPACING)


def _only(**probabilities: float) -> VolumeAugmentation:
    return VolumeAugmentation(VolumeAugmentConfig(**{**OFF, **probabilities}), SPACING)


def _pair(channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    image = generator.normal(size=(channels, *SIZE)).astype(np.float32)
    classes = np.zeros(SIZE, np.uint8)
    classes[5:14, 6:18, 4:12] = 1
    classes[8:11, 9:12, 6:9] = 2
    image[:, classes == 1] += 6.0
    image[:, classes == 2] += 12.0
    return image, classes


def test_nothing_is_done_with_all_probabilities_zero() -> None:
    image, classes = _pair()
    found, moved = _only()(image, classes, 5)
    assert moved is not None and np.array_equal(found, image) and np.array_equal(moved, classes)


@pytest.mark.parametrize("name", NAMES)
def test_each_change_changes_and_keeps_shape_and_type(name: str) -> None:
    image, classes = _pair()
    before = image.copy()
    changed = [_only(**{name: 1.0})(image, classes, seed) for seed in range(3)]
    for found, moved in changed:
        assert found.shape == image.shape and found.dtype == np.float32 and found.flags.c_contiguous
        assert moved is not None and moved.shape == classes.shape and moved.dtype == np.uint8
        assert np.isfinite(found).all() and not np.array_equal(found, image)
        assert (np.array_equal(moved, classes)) == (name not in ("flip", "affine", "elastic"))
    if name != "flip":
        assert not np.array_equal(changed[0][0], changed[1][0])
    assert np.array_equal(before, image)


def test_a_seed_replays_bit_for_bit_whatever_happened_before() -> None:
    image, classes = _pair()
    first, moved = ALL(image, classes, 11)
    np.random.seed(3)
    torch.manual_seed(3)
    ALL(image, classes, 4)
    second, again = VolumeAugmentation(ALL.config, SPACING)(image, classes, 11)
    assert moved is not None and again is not None
    assert np.array_equal(first, second) and np.array_equal(moved, again)


def test_threads_do_not_disturb_each_other() -> None:
    image, classes = _pair()
    alone = [ALL(image, classes, seed)[0] for seed in range(6)]
    found: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        found[seed] = ALL(image, classes, seed)[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[seed], found[seed]) for seed in range(6))


def test_the_number_of_threads_changes_nothing() -> None:
    # A loader process has one thread, and the main process several.
    image = np.tile(_pair(1)[0], (1, 4, 4, 4))
    augmentation, found, threads = _only(**dict.fromkeys(NAMES, 1.0)), [], torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(augmentation(image, None, 4)[0])
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


def test_global_random_states_are_left_alone() -> None:
    image, classes = _pair()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[union-attr]
    ALL(image, classes, 1)
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # type: ignore[arg-type]
    assert torch.equal(torch_state, torch.get_rng_state())


def test_flips_are_drawn_separately_per_axis() -> None:
    image, classes = _pair(1)
    kinds = set()
    for seed in range(60):
        _, moved = _only(flip=0.5)(image, np.arange(classes.size, dtype=np.uint16).reshape(SIZE), seed)
        assert moved is not None
        kinds.add(int(moved[0, 0, 0]))
    assert len(kinds) == 8


def test_image_and_classes_stay_together_through_everything() -> None:
    """A bright cube in the image is where the classes say, for crops with margins and without."""
    size = (60, 70, 50)
    classes = np.zeros(size, np.uint8)
    classes[22:36, 27:43, 20:30] = 1
    image = np.where(classes == 1, 4.0, 0.0).astype(np.float32)[np.newaxis]
    patch = (26, 30, 18)
    for seed in range(10):
        augmentation = _only(flip=0.5, affine=1.0, elastic=1.0)
        margin = augmentation.margin(patch, seed)
        shape = (patch[0] + 2 * margin[0], patch[1] + 2 * margin[1], patch[2] + 2 * margin[2])
        begin = (16 - margin[0], 20 - margin[1], 16 - margin[2])
        moved, found = augmentation(cut(image, begin, shape, 0.0), cut(classes, begin, shape, 0), seed, patch)
        assert found is not None and moved.shape[1:] == found.shape == patch
        assert ((moved[0] > 2.0) != (found == 1)).sum() < 0.12 * found.sum()


def test_a_field_brightens_what_is_bright_and_leaves_the_dark() -> None:
    image = np.full((1, *SIZE), -1.0, np.float32)
    image[0, 4:16, 4:20, 4:12] = 3.0
    found, _ = _only(bias_field=1.0)(image, None, 2)
    assert (found[image == -1.0] == -1.0).all()
    bright = found[image == 3.0]
    assert bright.std() > 0.02 and bright.min() > 0.0


def test_an_image_without_contrast_survives() -> None:
    image = np.zeros((1, *SIZE), np.float32)
    found, none = ALL(image, None, 3)
    assert np.isfinite(found).all() and none is None


def test_one_slice_survives() -> None:
    image = np.random.default_rng(0).normal(size=(1, 20, 24, 1)).astype(np.float32)
    for seed in range(4):
        found, _ = ALL(image, None, seed)
        assert found.shape == image.shape and np.isfinite(found).all()
