from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.data.manifest import Manifest, read_manifest
from medformer.data.synthetic.brain_volumes import (
    LABELS,
    LARGE,
    SCANNERS,
    SMALL,
    Anatomy,
    scan_brain,
    write_synthetic_volumes,
)
from medformer.data.volumes.read.dataset_file import DatasetInfo, read_info
from medformer.errors import ConfigError
from medformer.imaging.geometry import same_grid
from medformer.imaging.volumes import read_geometry, read_labels, read_volume


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_synthetic_volumes(tmp_path_factory.mktemp("volumes"), cases=9, spacing=5.0))


def test_the_manifest_names_patients_sites_and_classes(written: Manifest) -> None:
    ids = [case.id for case in written.cases]
    assert ids == ["p000_v1", "p000_v2", *(f"p{n:03}_v{v}" for n, v in ((1, 1), (2, 1), (3, 1), (3, 2))), *ids[6:]]
    assert all(case.group == case.id.split("_")[0] for case in written.cases)
    assert {case.site for case in written.cases} == {scanner.name for scanner in SCANNERS}
    assert {case.label for case in written.cases} == {0, 1}
    assert read_info(written.path) == DatasetInfo(LABELS, ("T1",))


def test_labels_lie_on_their_image_and_hold_all_tissues(written: Manifest) -> None:
    for case in written.cases:
        labels = read_labels(case.required_mask())
        assert same_grid(read_geometry(case.image), labels.geometry, tolerance_mm=0.0) == ""
        milliliters = np.bincount(labels.array.ravel(), minlength=4) * labels.geometry.voxel_ml
        assert set(np.unique(labels.array)) == {0, 1, 2, 3}
        assert 600 < milliliters[1] < 1800 and 300 < milliliters[2] < 1000
        # The brain is not cut off.
        assert not any(labels.array.take(end, axis).any() for axis in range(3) for end in (0, -1))


def test_scans_come_in_the_orientations_voxel_sizes_and_tilts_of_their_sites(written: Manifest) -> None:
    for case in written.cases:
        scanner = next(scanner for scanner in SCANNERS if scanner.name == case.site)
        geometry = read_geometry(case.image)
        assert geometry.axcodes == scanner.codes
        assert geometry.spacing == pytest.approx([5.0 * size for size in scanner.voxel], rel=1e-5)
        assert (np.count_nonzero(np.abs(geometry.affine[:3, :3]) > 1e-3) > 3) == any(scanner.tilt)


def test_lesions_have_the_volume_that_the_table_says() -> None:
    for number in range(2):
        anatomy = Anatomy(5, number)
        total = sum(lesion.volume_ml for lesion in anatomy.lesions)
        low, high = LARGE if number % 2 else SMALL
        assert low <= total <= high
        for visit in (1, 2):
            scan = scan_brain(anatomy, SCANNERS[0], visit, spacing=2.5, seed=number)
            found = float((scan.labels == 3).sum()) * scan.geometry.voxel_ml
            assert found == pytest.approx(scan.lesion_ml, rel=0.12)
            growth = scan.lesion_ml / total
            assert growth == pytest.approx(1.0) if visit == 1 else 1.15 <= growth <= 1.4


def test_tissues_differ_in_signal_and_lesions_stand_out(written: Manifest) -> None:
    for case in written.cases:
        image, labels = read_volume(case.image).array, read_labels(case.required_mask()).array
        background, gray, white, lesion = (float(np.median(image[labels == value])) for value in range(4))
        assert background < 0.3 * gray and 1.08 * gray < white and 1.05 * white < lesion


def test_the_same_seed_gives_the_same_files_whatever_their_number(written: Manifest, tmp_path: Path) -> None:
    again = read_manifest(write_synthetic_volumes(tmp_path / "a", cases=3, spacing=5.0))
    assert [case.sha256 for case in again.cases] == [case.sha256 for case in written.cases[:3]]
    other = read_manifest(write_synthetic_volumes(tmp_path / "b", cases=1, spacing=5.0, seed=1))
    assert other.cases[0].sha256 != again.cases[0].sha256
    # Into a folder that holds another data set of the same names.
    rewritten = read_manifest(write_synthetic_volumes(tmp_path / "b", cases=2, spacing=6.0))
    assert read_geometry(rewritten.cases[0].image).spacing == pytest.approx([6.0, 6.0, 6.0])


def test_two_visits_show_one_brain_and_two_patients_do_not(written: Manifest) -> None:
    first, second, *_ = (read_labels(case.required_mask()).array > 0 for case in written.cases)
    third = read_labels(written.by_id["p003_v1"].required_mask()).array > 0

    def overlap(one: np.ndarray, other: np.ndarray) -> float:
        return float(2 * (one & other).sum() / (one.sum() + other.sum()))

    assert first.shape == second.shape == third.shape
    assert overlap(first, second) > overlap(first, third) + 0.02


@pytest.mark.parametrize("change", [{"cases": 0}, {"spacing": 0.5}, {"spacing": float("nan")}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected at least one case"):
        write_synthetic_volumes(tmp_path, **change)  # type: ignore[arg-type]
