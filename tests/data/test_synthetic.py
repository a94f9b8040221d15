from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_walls import small_walls

from medformer.data.frames.descriptors import descriptor, similar_frames
from medformer.data.manifest import read_manifest
from medformer.data.synthetic.colonoscopy import Frame, SyntheticColonoscopy, write_synthetic_colonoscopy
from medformer.data.synthetic.noise import fractal_noise, sample, smooth_noise
from medformer.data.synthetic.patient import AREA, SITES, draw_patient
from medformer.errors import ConfigError
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask

SMALL = (96, 120)


@pytest.fixture(scope="module")
def frames() -> dict[tuple[int, int], Frame]:
    generator = SyntheticColonoscopy(SMALL, seed=0)
    return {(group, number): generator.frame(group, number) for group in range(4) for number in range(2)}


def _hash(image: np.ndarray) -> np.ndarray:
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return (gray[:, 1:] > gray[:, :-1]).ravel()


def test_frames_have_the_asked_shape_and_types(frames: dict[tuple[int, int], Frame]) -> None:
    for frame in frames.values():
        assert frame.image.shape == (*SMALL, 3) and frame.image.dtype == np.uint8
        assert frame.mask.shape == SMALL and frame.mask.dtype == np.bool_


def test_the_same_seed_gives_the_same_pixels_in_any_order(frames: dict[tuple[int, int], Frame]) -> None:
    draw_patient.cache_clear()
    np.random.seed(3)
    again = SyntheticColonoscopy(SMALL, seed=0)
    for key in [(2, 1), (0, 1), (0, 0)]:
        assert np.array_equal(frames[key].image, again.frame(*key).image)
        assert np.array_equal(frames[key].mask, again.frame(*key).mask)
    other = SyntheticColonoscopy(SMALL, seed=1).frame(0, 0)
    assert np.abs(other.image.astype(int) - frames[(0, 0)].image).mean() > 8


def test_polyps_are_of_plausible_size_and_inside_the_aperture(frames: dict[tuple[int, int], Frame]) -> None:
    areas = [frame.mask.mean() for frame in frames.values()]
    assert all(0.7 * AREA[0] <= area <= 1.1 * AREA[1] for area in areas)
    assert max(areas) > 2 * min(areas)
    for (group, _), frame in frames.items():
        aperture = SITES[group % 2].aperture.weight(SMALL)
        assert aperture[frame.mask].min() > 0.5


def test_the_surround_is_dark_and_holds_no_tissue(frames: dict[tuple[int, int], Frame]) -> None:
    for (group, _), frame in frames.items():
        aperture = SITES[group % 2].aperture
        outside = aperture.weight(SMALL) == 0.0
        assert 0.04 < outside.mean() < 0.5
        assert (frame.image[outside] == aperture.border).all()


def test_tissue_is_red_and_the_scene_spans_dark_to_bright(frames: dict[tuple[int, int], Frame]) -> None:
    for (group, _), frame in frames.items():
        inside = frame.image[SITES[group % 2].aperture.weight(SMALL) == 1.0].astype(float)
        red, green, blue = inside.mean(0)
        assert red > 1.15 * green and red > 1.15 * blue
        assert np.percentile(inside, 99) - np.percentile(inside, 1) > 100


def test_highlights_are_few_and_present(frames: dict[tuple[int, int], Frame]) -> None:
    shares = []
    for (group, _), frame in frames.items():
        inside = SITES[group % 2].aperture.weight(SMALL) == 1.0
        shares.append(float((frame.image.min(-1)[inside] > 215).mean()))
    assert max(shares) < 0.2
    assert sum(share > 0 for share in shares) >= len(shares) // 3


def test_frames_of_a_group_differ_and_groups_differ_more(frames: dict[tuple[int, int], Frame]) -> None:
    hashes = {key: _hash(frame.image) for key, frame in frames.items()}
    within = [int((hashes[(group, 0)] != hashes[(group, 1)]).sum()) for group in range(4)]
    across = [
        int((hashes[(a, 0)] != hashes[(b, number)]).sum())
        for a in range(4)
        for b in range(4)
        if a != b
        for number in (0, 1)
    ]
    assert np.mean(across) > np.mean(within) + 5
    assert min(across) > 6
    for group in range(4):
        assert not np.array_equal(frames[(group, 0)].image, frames[(group, 1)].image)


def test_color_alone_does_not_find_the_polyps(frames: dict[tuple[int, int], Frame]) -> None:
    aucs = []
    for (group, _), frame in frames.items():
        inside = SITES[group % 2].aperture.weight(SMALL) == 1.0
        redness = frame.image[..., 0] - 0.5 * frame.image[..., 1] - 0.5 * frame.image[..., 2]
        order = redness[inside].argsort().argsort()
        polyp = frame.mask[inside]
        positives, negatives = polyp.sum(), (~polyp).sum()
        aucs.append((order[polyp].sum() - positives * (positives - 1) / 2) / (positives * negatives))
    assert abs(float(np.mean(aucs)) - 0.5) < 0.3
    assert min(aucs) < 0.6


def test_a_frame_without_a_polyp_has_an_empty_mask() -> None:
    frame = SyntheticColonoscopy(SMALL, seed=0).frame(1, 0, polyp=False)
    assert not frame.mask.any() and frame.image.std() > 10


def test_write_makes_a_readable_data_set(tmp_path: Path) -> None:
    path = write_synthetic_colonoscopy(
        tmp_path / "set", groups=2, frames_per_group=2, size=(64, 80), seed=5, empty=0.25
    )
    manifest = read_manifest(path)
    assert len(manifest.cases) == 4
    assert {case.group for case in manifest.cases} == {"p000", "p001"}
    assert {case.site for case in manifest.cases} == {"synthetic-a", "synthetic-b"}
    empty = 0
    for case in manifest.cases:
        assert case.mask is not None
        assert case.sha256 == hashlib.sha256(case.image.read_bytes()).hexdigest()
        mask = read_mask(case.mask)
        assert read_image(case.image).shape == (64, 80, 3) and mask.shape == (64, 80)
        empty += not mask.any()
    assert empty == 1


def test_written_files_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    hashes = []
    for name in "ab":
        path = write_synthetic_colonoscopy(tmp_path / name, groups=1, frames_per_group=2, size=(64, 80), seed=5)
        hashes.append([(case.id, case.sha256) for case in read_manifest(path).cases])
        draw_patient.cache_clear()
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"frames_per_group": 0}, {"empty": 1.5}, {"size": (16, 64)}])
def test_wrong_numbers_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        write_synthetic_colonoscopy(tmp_path, **wrong)  # type: ignore[arg-type]


def test_noise_tiles_and_is_standardised() -> None:
    noise = fractal_noise(np.random.default_rng(0), (64, 96), (4, 6), 3)
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    smooth = smooth_noise(np.random.default_rng(0), (64, 96), (4, 6))
    inner = np.abs(np.diff(smooth, axis=1)).max()
    assert np.abs(smooth[:, 0] - smooth[:, -1]).max() <= 1.5 * inner


def test_sample_reads_between_pixels_and_wraps() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows, columns = np.array([1.0, 1.5, 0.0], np.float32), np.array([2.0, 2.0, 3.5], np.float32)
    np.testing.assert_allclose(sample(table, rows, columns), [6.0, 8.0, 1.5], atol=0.05)


def test_the_leakage_audit_takes_no_two_groups_for_the_same() -> None:
    generator = SyntheticColonoscopy(SMALL, seed=1)
    with small_walls():
        descriptors = np.stack([descriptor(generator.frame(group, 0).image) for group in range(8)])
    assert similar_frames(descriptors) == []
