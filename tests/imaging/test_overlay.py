"""The overlay shows both outlines and leaves the rest of the picture alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.errors import DataError, ResourceError
from medformer.imaging.images import read_image, write_image
from medformer.imaging.masks import PREDICTION_COLOR, TRUTH_COLOR, draw_overlay


@pytest.fixture
def image() -> np.ndarray:
    return np.full((80, 100, 3), (180, 90, 70), np.uint8)


def disk(row: int, column: int, radius: int = 15) -> np.ndarray:
    rows, columns = np.ogrid[:80, :100]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def where(drawn: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (drawn == color).all(axis=2)


def test_lines_hug_their_masks_and_both_show_where_they_agree(image: np.ndarray) -> None:
    drawn = draw_overlay(image, disk(40, 50), disk(40, 50))
    assert where(drawn, PREDICTION_COLOR).any()
    assert not (where(drawn, PREDICTION_COLOR) & disk(40, 50)).any()
    assert where(drawn, TRUTH_COLOR).any()
    assert not (where(drawn, TRUTH_COLOR) & ~disk(40, 50)).any()
    assert np.array_equal(drawn[disk(40, 50, 10)], image[disk(40, 50, 10)])
    assert np.array_equal(drawn[~disk(40, 50, 20)], image[~disk(40, 50, 20)])


def test_without_truth_only_the_prediction_is_drawn(image: np.ndarray) -> None:
    drawn = draw_overlay(image, disk(40, 50))
    assert not where(drawn, TRUTH_COLOR).any()
    assert (image == (180, 90, 70)).all()


def test_an_empty_prediction_leaves_the_picture(image: np.ndarray) -> None:
    assert np.array_equal(draw_overlay(image, np.zeros((80, 100), bool)), image)


def test_a_mask_that_reaches_the_edge_is_outlined_along_it(image: np.ndarray) -> None:
    everything = np.ones((80, 100), bool)
    drawn = draw_overlay(image, everything, everything)
    edge = np.ones((80, 100), bool)
    edge[1:-1, 1:-1] = False
    assert np.array_equal(where(drawn, PREDICTION_COLOR), edge)
    next_to_it = np.zeros((80, 100), bool)
    next_to_it[1:-1, 1:-1] = True
    next_to_it[2:-2, 2:-2] = False
    assert np.array_equal(where(drawn, TRUTH_COLOR), next_to_it)


def test_the_file_has_the_size_of_the_picture(tmp_path: Path, image: np.ndarray) -> None:
    write_image(tmp_path / "o.png", draw_overlay(image, disk(40, 50), disk(35, 45)))
    assert np.array_equal(read_image(tmp_path / "o.png"), draw_overlay(image, disk(40, 50), disk(35, 45)))


def test_one_pixel(tmp_path: Path) -> None:
    write_image(tmp_path / "o.png", draw_overlay(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool)))
    assert (tmp_path / "o.png").exists()


def test_sizes_must_agree_and_the_folder_be_writable(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="The truth is"):
        draw_overlay(image, disk(40, 50), disk(40, 50)[:-1])
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        write_image(tmp_path / "file" / "o.png", draw_overlay(image, disk(40, 50)))
