"""A DICOM segmentation holds the voxels it was given, where its series lies, or there is no file and an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.errors import DataError, ResourceError
from medformer.imaging import dicom_seg
from medformer.imaging.dicom import find_series
from medformer.imaging.dicom_seg import read_dicom_seg, write_dicom_seg
from medformer.imaging.geometry import Volume, same_grid
from medformer.imaging.volumes import read_geometry, read_labels

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

WriteSeries = Callable[..., Path]
NAMES = {1: "Anterior", 2: "Posterior", 17: "Lesion"}


def some_labels() -> np.ndarray:
    labels = np.zeros((7, 5, 6), np.uint8)
    labels[1:4, 1:3, 2:5], labels[4:6, 2:5, 3], labels[0, 0, 2] = 1, 17, 2
    return labels


def test_voxels_place_and_names_come_back(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    write_dicom_seg(tmp_path / "a.seg.dcm", some_labels(), NAMES, source)
    found = read_dicom_seg(tmp_path / "a.seg.dcm", source)
    assert np.array_equal(found.array, some_labels())
    assert found.array.dtype == np.uint8
    assert same_grid(found.geometry, read_geometry(source), tolerance_mm=1e-3) == ""
    data = pydicom.dcmread(tmp_path / "a.seg.dcm")
    slice_of_source = pydicom.dcmread(next(source.glob("*.dcm")))
    assert data.FrameOfReferenceUID == slice_of_source.FrameOfReferenceUID
    assert data.StudyInstanceUID == slice_of_source.StudyInstanceUID
    assert data.SegmentationType == "BINARY"
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["Anterior", "Posterior", "Lesion"]
    assert {segment.SegmentAlgorithmName for segment in data.SegmentSequence} == {"medformer"}


def test_every_frame_lies_on_the_slice_it_was_drawn_on(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    write_dicom_seg(tmp_path / "a.dcm", some_labels(), NAMES, source)
    made = highdicom.seg.segread(tmp_path / "a.dcm")
    files = sorted(source.glob("*.dcm"))
    affine = read_geometry(source).affine
    by_slice = made.get_pixels_by_source_instance(
        [pydicom.dcmread(path).SOPInstanceUID for path in files],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    for path, plane in zip(files, by_slice, strict=True):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        k = int(np.rint(np.linalg.solve(affine, (-x, -y, z, 1.0))[2]))
        assert np.array_equal(np.array([0, 1, 2, 17])[plane].T, some_labels()[:, :, k])


def test_without_its_series_the_labeled_part_is_read(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    write_dicom_seg(tmp_path / "a.dcm", some_labels(), NAMES, source)
    found = read_labels(tmp_path / "a.dcm")
    assert np.array_equal(found.array, some_labels()[:, :, 2:5])
    start = read_geometry(source).affine @ (0, 0, 2, 1)
    np.testing.assert_allclose(found.geometry.affine[:, 3], start, atol=1e-4)


@pytest.mark.parametrize("labels", [np.zeros((7, 5, 6), np.uint8), np.full((7, 5, 6), 17, np.int32)])
def test_empty_and_full_label_maps(write_series: WriteSeries, tmp_path: Path, labels: np.ndarray) -> None:
    source = write_series()
    write_dicom_seg(tmp_path / "a.dcm", labels, NAMES, source)
    assert np.array_equal(read_dicom_seg(tmp_path / "a.dcm", source).array, labels)


def test_what_does_not_fit_is_refused(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    other = write_series("other", lambda k, data: k != 5)
    labels = some_labels()
    for wrong, names, name, words in (
        (labels[1:], NAMES, "a.dcm", "shape of the series"),
        (labels.astype(float), NAMES, "a.dcm", "expected integers"),
        (labels, {1: "Anterior"}, "a.dcm", r"hold \[2, 17\], which have no name"),
        (labels, {0: "background", **NAMES}, "a.dcm", "above 0"),
        (labels, NAMES, "a.nii.gz", r"end in \.dcm"),
    ):
        with pytest.raises(DataError, match=words):
            write_dicom_seg(tmp_path / name, wrong, names, source)
    assert not list(tmp_path.glob("*.*"))
    write_dicom_seg(tmp_path / "a.dcm", labels, NAMES, source)
    with pytest.raises(DataError, match="no DICOM segmentation"):
        read_dicom_seg(next(source.glob("*.dcm")))
    with pytest.raises(DataError, match="does not exist"):
        read_dicom_seg(tmp_path / "none.dcm")
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:900])
    with pytest.raises(DataError, match=r"cut\.dcm"):
        read_dicom_seg(tmp_path / "cut.dcm")
    assert other.is_dir()


def test_a_file_that_reads_back_otherwise_is_not_kept(
    write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_series()
    real = dicom_seg.read_dicom_seg

    def other(path: Path, series: Path | None = None) -> Volume:
        found = real(path, series)
        return Volume(np.flip(found.array, 0), found.geometry, path)

    monkeypatch.setattr(dicom_seg, "read_dicom_seg", other)
    with pytest.raises(ResourceError, match="voxels differ"):
        write_dicom_seg(tmp_path / "a.dcm", some_labels(), NAMES, source)
    assert not list(tmp_path.glob("*.dcm"))


def test_slices_without_patient_attributes_can_carry_one(write_series: WriteSeries, tmp_path: Path) -> None:
    def anonymous(k: int, data: Any) -> None:
        del data.PatientID

    source = write_series(change=anonymous)
    write_dicom_seg(tmp_path / "a.dcm", some_labels(), NAMES, source)
    assert np.array_equal(read_dicom_seg(tmp_path / "a.dcm", source).array, some_labels())


@pytest.mark.real_data
def test_real_series_carry_segmentations(tmp_path: Path, medformer_data: Path) -> None:
    for entry in find_series(medformer_data / "volumes" / "hippocampus_dicom"):
        grid = read_geometry(entry.folder)
        labels = np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8)
        write_dicom_seg(tmp_path / "a.dcm", labels, {1: "Anterior", 2: "Posterior"}, entry.folder)
        found = read_dicom_seg(tmp_path / "a.dcm", entry.folder)
        assert np.array_equal(found.array, labels)
        assert np.array_equal(found.geometry.affine, grid.affine)
        made = highdicom.seg.segread(tmp_path / "a.dcm")
        assert made.FrameOfReferenceUID == pydicom.dcmread(entry.files[0]).FrameOfReferenceUID
