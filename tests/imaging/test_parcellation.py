from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.parcellation import extract_series, read_parcellation

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
VOLUMES = 60


def write(path: Path, values: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE, seconds: float = 2.0) -> Path:
    image = nibabel.Nifti1Image(values, affine)
    if values.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], seconds))
    nibabel.save(image, path)
    return path


def labels() -> NDArray[np.int16]:
    """Four blocks whose numbers are not 1..4."""
    volume = np.zeros((8, 8, 6), np.int16)
    for number, (x, y) in zip((3, 7, 20, 223), ((0, 0), (0, 4), (4, 0), (4, 4)), strict=True):
        volume[x : x + 4, y : y + 4, 1:5] = number
    return volume


def signals(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((VOLUMES, 4))


def scan(seed: int = 0, noise: float = 0.2) -> NDArray[np.float32]:
    """A scan in which each block carries one signal."""
    values = 100.0 + noise * np.random.default_rng(seed + 1).standard_normal((8, 8, 6, VOLUMES))
    volume = labels()
    for column, number in enumerate((3, 7, 20, 223)):
        values[volume == number] += signals(seed)[:, column]
    return values.astype(np.float32)


def scores(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)


def test_each_column_is_the_mean_signal_of_its_label(tmp_path: Path) -> None:
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    assert atlas.labels == (3, 7, 20, 223)
    np.testing.assert_allclose(atlas.coordinates[1], (4.5, 16.5, 7.5))
    found = extract_series(write(tmp_path / "scan.nii.gz", scan(noise=0.0)), atlas)
    assert found.values.dtype == np.float32
    time = np.arange(VOLUMES, dtype=float)
    for column in range(4):
        signal = signals()[:, column]
        detrended = signal - np.polyval(np.polyfit(time, signal, 1), time)
        np.testing.assert_allclose(found.values[:, column], scores(detrended), atol=1e-4)
    np.testing.assert_array_equal(found.coverage, 1.0)
    assert found.volumes == VOLUMES


def test_the_order_and_size_of_the_atlas_s_voxels_do_not_matter(tmp_path: Path) -> None:
    file = write(tmp_path / "scan.nii.gz", scan())
    expected = extract_series(file, read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))).values
    mirrored = AFFINE.copy()
    mirrored[0] = (-3.0, 0.0, 0.0, 21.0)
    turned = read_parcellation(write(tmp_path / "turned.nii.gz", labels()[::-1], mirrored))
    np.testing.assert_allclose(extract_series(file, turned).values, expected, atol=1e-5)
    fine = labels().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    half = np.diag([1.5, 1.5, 1.5, 1.0])
    half[:3, 3] = -0.75
    finer = read_parcellation(write(tmp_path / "fine.nii.gz", fine, half))
    np.testing.assert_allclose(extract_series(file, finer).values, expected, atol=1e-5)


def test_labels_that_the_mask_leaves_out_are_constant_and_counted(tmp_path: Path) -> None:
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    inside = np.ones((8, 8, 6), np.uint8)
    inside[:4, 4:] = 0
    inside[4:, :2] = 0
    found = extract_series(write(tmp_path / "scan.nii.gz", scan()), atlas, mask=write(tmp_path / "mask.nii.gz", inside))
    np.testing.assert_array_equal(found.coverage, (1.0, 0.0, 0.5, 1.0))
    assert found.values.shape == (VOLUMES, 4)
    assert not found.values[:, 1].any()
    assert (found.values[:, [0, 2, 3]].std(axis=0) > 0.9).all()


def test_confounds_are_regressed_out_and_scrubbed_volumes_left_out(tmp_path: Path) -> None:
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    motion = np.random.default_rng(9).standard_normal(VOLUMES)
    moved = scan() + (5.0 * motion).astype(np.float32)
    file = write(tmp_path / "scan.nii.gz", moved)
    dirty = extract_series(file, atlas).values
    kept = np.delete(np.arange(VOLUMES), [10, 11, 40])
    clean = extract_series(file, atlas, confounds=pd.DataFrame({"motion": motion}), kept=kept).values
    assert abs(np.corrcoef(dirty[:, 0], dirty[:, 3])[0, 1]) > 0.9
    assert abs(np.corrcoef(clean[:, 0], clean[:, 3])[0, 1]) < 0.4
    assert clean.shape == (VOLUMES - 3, 4)
    assert np.abs(np.corrcoef(clean[:, 0], motion[kept])[0, 1]) < 0.1


def test_a_filter_removes_the_frequencies_outside_its_band(tmp_path: Path) -> None:
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    file = write(tmp_path / "scan.nii.gz", scan())
    found = extract_series(file, atlas, low_pass=0.1, high_pass=0.01).values
    power = np.abs(np.fft.rfft(found[:, 0])) ** 2
    frequency = np.fft.rfftfreq(len(found), 2.0)
    assert power[frequency > 0.15].sum() < 0.05 * power.sum()
    still = write(tmp_path / "still.nii.gz", scan(), seconds=0.0)
    with pytest.raises(DataError, match="repetition time"):
        extract_series(still, atlas, low_pass=0.1)
    assert np.isfinite(extract_series(still, atlas, low_pass=0.1, repetition_time=2.0).values).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4, 4), np.int16), "holds no label"),
        (np.full((4, 4, 4), 0.5, np.float32), "whole numbers"),
        (np.full((4, 4, 4), -1, np.int16), "whole numbers from 0"),
        (np.ones((4, 4, 4, 3), np.int16), "3 volumes in one file"),
    ],
)
def test_a_volume_that_is_no_atlas_is_refused(tmp_path: Path, values: NDArray[np.generic], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_parcellation(write(tmp_path / "atlas.nii.gz", values))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.nii\.gz does not exist"):
        read_parcellation(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii.gz").write_text("hello")
    with pytest.raises(DataError, match="does not begin as a NIfTI file"):
        read_parcellation(tmp_path / "text.nii.gz")
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    whole = write(tmp_path / "scan.nii.gz", scan()).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.nii\.gz could not be reduced to regions"):
        extract_series(tmp_path / "cut.nii.gz", atlas)


def test_scans_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    file = write(tmp_path / "scan.nii.gz", scan())
    with pytest.raises(DataError, match="60 volumes and its confounds 59 rows"):
        extract_series(file, atlas, confounds=pd.DataFrame({"motion": np.zeros(59)}))
    with pytest.raises(DataError, match="expected a series of volumes"):
        extract_series(tmp_path / "atlas.nii.gz", atlas)
    with pytest.raises(DataError, match="expected the same grid"):
        extract_series(file, atlas, mask=write(tmp_path / "mask.nii.gz", np.ones((4, 4, 4), np.uint8)))
    away = AFFINE.copy()
    away[:3, 3] = 500.0
    with pytest.raises(DataError, match=r"No label .* in one space"):
        extract_series(file, read_parcellation(write(tmp_path / "away.nii.gz", labels(), away)))


def test_voxels_that_are_nan_are_left_out_like_those_outside_the_mask(tmp_path: Path) -> None:
    atlas = read_parcellation(write(tmp_path / "atlas.nii.gz", labels()))
    values = scan()
    values[:4, :4, :, 5] = np.nan
    values[4:, :1] = np.nan
    found = extract_series(write(tmp_path / "scan.nii.gz", values), atlas)
    np.testing.assert_array_equal(found.coverage, (0.0, 1.0, 0.75, 1.0))
    assert not found.values[:, 0].any()
    assert np.isfinite(found.values).all()


@pytest.mark.real_data
def test_the_published_atlases_have_their_labels_where_their_tables_say(medformer_data: Path) -> None:
    folder = medformer_data / "abide" / "atlases"
    atlases = {
        name: read_parcellation(folder / f"{name}_roi_atlas.nii.gz") for name in ("aal", "cc200", "dos160", "ho")
    }
    assert {name: len(atlas.labels) for name, atlas in atlases.items()} == {
        "aal": 116,
        "cc200": 200,
        "dos160": 161,
        "ho": 111,
    }
    assert atlases["dos160"].labels[-1] == 223
    np.testing.assert_allclose(atlases["cc200"].coordinates[:2], ((-39.6, -85.4, 1.4), (-49.7, -60.8, 23.2)), atol=0.06)
