from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.data.cases import Case
from medformer.errors import DataError
from medformer.evaluation.masks.overlap import dice
from medformer.imaging.images import read_image, write_image
from medformer.imaging.mask_rule import read_mask
from medformer.imaging.masks import write_mask
from medformer.inference.baselines.frames import BASELINES, FEATURES, PixelColor, PriorMask, pixel_features


def make_cases(folder: Path, count: int = 6, seed: int = 0) -> list[Case]:
    """Reddish squares at changing places on a brownish ground, pictures of different sizes."""
    generator = np.random.default_rng(seed)
    cases = []
    for index in range(count):
        height, width = 60 + 8 * (index % 3), 80 - 4 * (index % 2)
        row, column = generator.integers(10, 30, 2)
        mask = np.zeros((height, width), np.bool_)
        mask[row : row + 20, column : column + 24] = True
        image = np.where(mask[..., None], (190, 60, 60), (150, 110, 80)) + generator.normal(0, 8, (height, width, 3))
        write_image(folder / f"i{index}.png", image.clip(0, 255).astype(np.uint8))
        write_mask(folder / f"m{index}.png", mask)
        cases.append(Case(f"c{index}", folder / f"i{index}.png", folder / f"m{index}.png", f"g{index}", "s", "", ""))
    return cases


def test_the_prior_is_the_average_of_the_training_masks(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    baseline = PriorMask(image_size=(64, 64), seed=0).fit(cases)
    shares = [read_mask(case.mask).mean() for case in cases if case.mask]
    assert baseline.mean_.mean() == pytest.approx(np.mean(shares), abs=1e-3)
    first, second = (baseline.predict(np.full((48, 40, 3), value, np.uint8)) for value in (0, 200))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (48, 40)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1


def test_pixels_are_told_apart_by_their_color(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 8)
    baseline = PixelColor(image_size=(64, 64), seed=0).fit(cases[:5])
    for case in cases[5:]:
        assert case.mask is not None
        image = read_image(case.image)
        probability = baseline.predict(image)
        assert probability.shape == image.shape[:2]
        assert dice(probability >= 0.5, read_mask(case.mask)) > 0.85


def test_drawn_pixels_stand_for_all(tmp_path: Path) -> None:
    """Half of the drawn pixels are lesion, the predicted share of lesion is that of the masks all the same."""
    cases = make_cases(tmp_path, 4)
    for case in cases:
        write_image(case.image, np.full((*read_image(case.image).shape,), 128, np.uint8))
    baseline = PixelColor(image_size=(64, 64), seed=0).fit(cases)
    predicted = np.mean([baseline.predict(read_image(case.image)).mean() for case in cases])
    truth = np.mean([read_mask(case.mask).mean() for case in cases if case.mask])
    assert predicted == pytest.approx(truth, abs=0.03)


def test_the_same_seed_gives_the_same_map(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 3)
    image = read_image(cases[0].image)
    maps = [PixelColor(image_size=(64, 64), seed=seed).fit(cases).predict(image) for seed in (1, 1, 2)]
    assert maps[0].tobytes() == maps[1].tobytes()
    assert not np.array_equal(maps[0], maps[2])


def test_features_are_finite_and_named() -> None:
    features = pixel_features(np.zeros((20, 31, 3), np.uint8), (16, 24))
    assert features.shape == (16 * 24, len(FEATURES))
    assert np.isfinite(features).all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_what_cannot_be_learned_from_is_refused(name: str, tmp_path: Path) -> None:
    part = BASELINES[name].part
    cases = make_cases(tmp_path, 2)
    with pytest.raises(DataError, match="expected"):
        part(image_size=(32, 32), seed=0).fit([])
    with pytest.raises(DataError, match="'c0' has no mask"):
        part(image_size=(32, 32), seed=0).fit([Case("c0", cases[0].image, None, "g", "s", "", "")])


def test_masks_without_a_lesion_are_refused_where_both_classes_are_needed(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 2)
    for case in cases:
        assert case.mask is not None
        write_mask(case.mask, np.zeros_like(read_mask(case.mask)))
    with pytest.raises(DataError, match="no pixel of one of the two classes"):
        PixelColor(image_size=(32, 32), seed=0).fit(cases)
    assert PriorMask(image_size=(32, 32), seed=0).fit(cases).predict(read_image(cases[0].image)).max() == 0
