"""A mask that was written is the mask that was meant, or there is no file and an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import DataError, ResourceError
from medformer.imaging import masks
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.imaging.masks import read_probability, write_mask, write_probability


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(1).random((33, 47)) > 0.5


def test_a_mask_round_trips_as_an_8_bit_gray_png(tmp_path: Path, mask: np.ndarray) -> None:
    path = tmp_path / "deep" / "folder" / "m.png"
    write_mask(path, mask)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(picture), mask * np.uint8(255))
    assert np.array_equal(read_mask(path), mask)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_full_and_single_pixel_masks(tmp_path: Path, fill: bool) -> None:
    for shape in ((1, 1), (5, 9)):
        write_mask(tmp_path / "m.png", np.full(shape, fill))
        assert np.array_equal(read_mask(tmp_path / "m.png"), np.full(shape, fill))


def test_what_is_no_mask_is_refused(tmp_path: Path, mask: np.ndarray) -> None:
    for wrong in (mask.astype(np.uint8), mask[None], mask[:0]):
        with pytest.raises(DataError, match="expected a non-empty bool array"):
            write_mask(tmp_path / "m.png", wrong)
    with pytest.raises(DataError, match=r"expected a name that ends in '\.png'"):
        write_mask(tmp_path / "m.jpg", mask)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_a_resource_error(tmp_path: Path, mask: np.ndarray) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="Could not write"):
        write_mask(tmp_path / "file" / "m.png", mask)


def test_a_full_disk_leaves_the_old_mask(tmp_path: Path, mask: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask(tmp_path / "m.png", mask)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        write_mask(tmp_path / "m.png", ~mask)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_a_disk_that_returns_something_else_is_caught(
    tmp_path: Path, mask: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipped(path: Path) -> tuple[np.ndarray, int]:
        return np.asarray(Image.open(path)).astype(np.uint16) ^ 1, 255

    monkeypatch.setattr(masks, "read_gray16", flipped)
    with pytest.raises(ResourceError, match=r"m\.png was read back .* differs"):
        write_mask(tmp_path / "m.png", mask)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_round_trip(tmp_path: Path) -> None:
    probability = np.random.default_rng(2).random((20, 30), dtype=np.float32)
    write_probability(tmp_path / "p.png", probability)
    write_probability(tmp_path / "p.npz", probability, "npz")
    assert np.abs(read_probability(tmp_path / "p.png") - probability).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(read_probability(tmp_path / "p.npz"), probability)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5])
def test_what_is_no_probability_is_refused(tmp_path: Path, bad: float) -> None:
    probability = np.full((4, 4), 0.5, np.float32)
    probability[1, 2] = bad
    with pytest.raises(DataError, match="expected 0 to 1"):
        write_probability(tmp_path / "p.png", probability)
    np.savez(tmp_path / "p.npz", probability=probability)
    with pytest.raises(DataError, match="expected probabilities"):
        read_probability(tmp_path / "p.npz")


def test_sixteen_bit_and_rgb_probability_maps(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535, 13107]], np.uint16)).save(tmp_path / "p.png")
    assert np.allclose(read_probability(tmp_path / "p.png"), [[0, 1, 0.2]])
    Image.fromarray(np.full((2, 2, 3), 51, np.uint8)).save(tmp_path / "gray.png")
    assert np.allclose(read_probability(tmp_path / "gray.png"), 0.2)
    Image.fromarray(np.full((2, 2, 3), (51, 0, 0), np.uint8)).save(tmp_path / "red.png")
    with pytest.raises(DataError, match=r"red\.png is a color picture"):
        read_probability(tmp_path / "red.png")


def test_probability_archives_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it does not exist"):
        read_probability(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        read_probability(tmp_path / "bad.npz")
    np.savez(tmp_path / "key.npz", other=np.zeros((2, 2)))
    with pytest.raises(DataError, match="expected the key 'probability'"):
        read_probability(tmp_path / "key.npz")
    np.savez(tmp_path / "pickle.npz", probability=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="could run code"):
        read_probability(tmp_path / "pickle.npz")


def test_a_written_mask_reads_as_an_image_too(tmp_path: Path, mask: np.ndarray) -> None:
    write_mask(tmp_path / "m.png", mask)
    assert read_image(tmp_path / "m.png").shape == (33, 47, 3)
