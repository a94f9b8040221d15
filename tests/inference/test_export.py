from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import DataError
from medformer.inference.export_table import Exports
from medformer.inference.frames.export import COLUMNS, confidence, export_case


def two_regions() -> np.ndarray:
    probability = np.full((12, 16), 0.1, np.float32)
    probability[1:4, 1:4] = 0.9
    probability[4, 4] = 0.7  # touches the first region by a corner only
    probability[8:10, 10:14] = 0.6
    return probability


def test_files_and_row_agree_with_the_arrays(tmp_path: Path) -> None:
    probability = two_regions()
    image = np.full((12, 16, 3), 90, np.uint8)
    row = export_case(
        Exports(tmp_path),
        "frame-1",
        image,
        probability,
        0.5,
        source="in/frame-1.jpg",
        probabilities="npz",
        truth=probability > 0.8,
    )
    assert (*row, "image_sha256", "run_sha256") == COLUMNS
    written = Image.open(tmp_path / row["mask_file"])
    assert written.mode == "L" and written.format == "PNG"
    np.testing.assert_array_equal(np.array(written), np.where(probability >= 0.5, 255, 0))
    np.testing.assert_array_equal(np.load(tmp_path / row["probability_file"])["probability"], probability)
    assert np.array(Image.open(tmp_path / row["overlay_file"])).shape[1] == 16
    assert (row["id"], row["image"], row["threshold"]) == ("frame-1", "in/frame-1.jpg", 0.5)
    assert (row["height"], row["width"], row["area_px"]) == (12, 16, 18)
    assert row["area_fraction"] == 18 / 192
    assert row["components"] == 2  # corners connect
    assert row["confidence"] == pytest.approx((9 * 0.9 + 0.7 + 8 * 0.6) / 18)


def test_an_8_bit_probability_map_is_within_half_a_level(tmp_path: Path) -> None:
    probability = np.random.default_rng(0).random((9, 7)).astype(np.float32)
    row = export_case(Exports(tmp_path), "a", None, probability, 0.5, probabilities="png")
    stored = np.array(Image.open(tmp_path / row["probability_file"])) / 255
    assert np.abs(stored - probability).max() <= 0.5 / 255 + 1e-6
    assert row["overlay_file"] == "" and not (tmp_path / "overlays").exists()


def test_an_empty_mask_is_written_and_its_confidence_is_in_emptiness(tmp_path: Path) -> None:
    probability = np.full((5, 6), 0.2, np.float32)
    row = export_case(Exports(tmp_path), "normal", None, probability, 0.5)
    assert (row["area_px"], row["components"]) == (0, 0)
    assert row["confidence"] == pytest.approx(0.8)
    assert not np.array(Image.open(tmp_path / row["mask_file"])).any()
    assert row["probability_file"] == "" and not (tmp_path / "probabilities").exists()


def test_confidence_is_the_mean_inside_the_mask() -> None:
    probability = np.array([[0.9, 0.5, 0.1]], np.float32)
    assert confidence(probability, probability >= 0.5) == pytest.approx(0.7)


def test_an_id_with_folders_makes_folders(tmp_path: Path) -> None:
    row = export_case(Exports(tmp_path), "site/f1", None, np.ones((2, 2), np.float32), 0.5)
    assert row["mask_file"] == "masks/site/f1.png" and (tmp_path / row["mask_file"]).is_file()


def test_an_id_that_climbs_out_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be exported"):
        export_case(Exports(tmp_path / "out"), "../../f1", None, np.ones((2, 2), np.float32), 0.5)
    assert list(tmp_path.iterdir()) == []


def test_sizes_must_be_those_of_the_image(tmp_path: Path) -> None:
    image, probability = np.zeros((4, 5, 3), np.uint8), np.zeros((8, 8), np.float32)
    with pytest.raises(DataError, match=r"f1: the image has shape \(4, 5, 3\), the probabilities \(8, 8\)"):
        export_case(Exports(tmp_path), "f1", image, probability, 0.5)
    with pytest.raises(DataError, match=r"f1: the truth has shape \(2, 2\)"):
        export_case(Exports(tmp_path), "f1", None, probability, 0.5, truth=np.zeros((2, 2), bool))


def test_nan_probabilities_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="f1: the map holds NaN"):
        export_case(Exports(tmp_path), "f1", None, np.full((2, 2), np.nan, np.float32), 0.5)
    assert list(tmp_path.iterdir()) == []
