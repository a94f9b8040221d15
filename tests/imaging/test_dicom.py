"""A series is read where highdicom puts it, or refused with the numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medformer.errors import ConfigError, DataError
from medformer.imaging.dicom import read_series
from medformer.imaging.dicom_files import find_series
from medformer.imaging.geometry import Geometry
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.volumes import read_geometry, read_labels, read_volume

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

WriteSeries = Callable[..., Path]


def by_highdicom(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    volume = highdicom.image.get_volume_from_series([pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))])
    return volume.array.T, volume.get_affine("RAS")[:, [2, 1, 0, 3]]


def test_values_and_places_are_those_of_the_slices(write_series: WriteSeries) -> None:
    folder = write_series()
    found = read_volume(folder)
    assert found.array.dtype == np.float32
    assert found.array.shape == (7, 5, 6)
    np.testing.assert_allclose(found.geometry.spacing, (0.8, 0.9, 2.5), atol=1e-4)
    assert np.count_nonzero(np.abs(found.geometry.affine[:3, :3]) > 1e-3) > 3, "oblique"
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        x, y, z = data.ImagePositionPatient
        place = np.linalg.solve(found.geometry.affine, (-x, -y, z, 1.0))[:3]
        np.testing.assert_allclose(place, np.rint(place), atol=1e-4)
        assert np.rint(place)[:2].tolist() == [0, 0]
        plane = found.array[:, :, int(np.rint(place[2]))]
        assert np.array_equal(plane, data.pixel_array.T * np.float32(2) - np.float32(1000))
    array, affine = by_highdicom(folder)
    assert np.array_equal(found.array, array)
    np.testing.assert_allclose(found.geometry.affine, affine, atol=1e-5)
    assert np.array_equal(read_geometry(folder).affine, found.geometry.affine)
    assert found.stored == "int16"


def test_each_slice_is_rescaled_by_its_own_slope(write_series: WriteSeries) -> None:
    def change(k: int, data: Any) -> None:
        data.RescaleSlope = k + 1

    found = read_series(write_series(change=change))
    assert np.array_equal(found.array, by_highdicom(found.path)[0])


def test_series_are_found_below_a_folder(write_series: WriteSeries, tmp_path: Path) -> None:
    one, two = write_series("b/one"), write_series("a")
    (one / "DICOMDIR").write_text("index")
    (one / "._3.dcm").write_bytes(b"fork")
    (one / "notes.txt").write_text("a note")
    found = find_series(tmp_path)
    assert [entry.folder for entry in found] == [two, one]
    assert [len(entry.files) for entry in found] == [6, 6]
    assert (found[0].patient, found[0].modality, found[0].description) == ("P1", "CT", "abdomen")
    assert read_series(one).array.shape == (7, 5, 6)
    with pytest.raises(DataError, match="not a folder"):
        find_series(tmp_path / "none")


def leave_out(*which: int) -> Callable[[int, Any], bool]:
    return lambda k, data: k not in which


def shift(which: int, axis: int, by: float) -> Callable[[int, Any], None]:
    def change(k: int, data: Any) -> None:
        if k == which:
            position = [float(value) for value in data.ImagePositionPatient]
            position[axis] += by
            data.ImagePositionPatient = position

    return change


def give(which: int, **values: Any) -> Callable[[int, Any], None]:
    def change(k: int, data: Any) -> None:
        if k == which:
            for name, value in values.items():
                if value is None:
                    delattr(data, name)
                else:
                    setattr(data, name, value)

    return change


def tilt(k: int, data: Any) -> None:
    x, y, z = (float(value) for value in data.ImagePositionPatient)
    data.ImagePositionPatient = [x, y + 0.8 * k, z]


def double(k: int, data: Any) -> None:
    x, y, z = (float(value) for value in data.ImagePositionPatient)
    if k >= 3:
        data.ImagePositionPatient = [x - 0.28 * 1.3 * (k - 3), y, z + 0.96 * 1.3 * (k - 3)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (leave_out(2), "misses 1 slices.*: 5 mm between"),
        (leave_out(1, 3), "misses 2 slices"),
        (leave_out(2, 3), r"misses 2 slices.*: 7.5 mm between .* 2.5 mm apart \(4 files\)"),
        (shift(2, 2, 0.7), "uneven slices"),
        (double, "uneven slices"),
        (shift(2, 1, 0.7), "mm off its place"),
        (tilt, "straight stack"),
        (give(2, PixelSpacing=[0.9, 0.7]), "2 pixel spacings: .*; expected one"),
        (give(2, SeriesInstanceUID="1.2.3"), "2 series: .*1.2.3"),
        (give(2, FrameOfReferenceUID="1.2.3"), "2 frames of reference"),
        (give(2, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), "several orientations"),
        (give(2, Rows=4), "2 image sizes"),
        (give(2, ImagePositionPatient=None), "without ImagePositionPatient"),
        (give(2, Rows=None, Columns=None, PixelData=None), "no slice of a volume"),
        (give(2, NumberOfFrames=9), "9 frames"),
        (give(2, PhotometricInterpretation="RGB"), "holds RGB"),
        (give(2, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angles"),
        (give(2, PixelSpacing=[0.0, 0.8]), "sizes above zero"),
        (give(2, PixelData=b"\0\0"), "could not be decoded"),
    ],
)
def test_what_makes_no_regular_box_is_refused(
    write_series: WriteSeries, change: Callable[[int, Any], Any], words: str
) -> None:
    folder = write_series(change=change)
    with pytest.raises(DataError, match=words) as caught:
        read_series(folder)
    assert str(folder) in str(caught.value)


def test_copies_of_a_slice_are_refused(write_series: WriteSeries) -> None:
    folder = write_series()
    (folder / "copy.dcm").write_bytes((folder / "3.dcm").read_bytes())
    with pytest.raises(DataError, match=r"1 slices at a position that is taken already \(first 3.dcm and copy.dcm"):
        read_series(folder)


def test_files_that_cannot_be_read_are_named(write_series: WriteSeries, tmp_path: Path) -> None:
    folder = write_series()
    (folder / "3.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"3\.dcm is no readable DICOM"):
        read_series(folder)
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DataError, match="without DICOM files"):
            read_series(place)


def test_a_damaged_slice_without_an_ending_is_not_passed_over(write_series: WriteSeries) -> None:
    folder = write_series()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"IM{number:04}")
    (folder / "README").write_text("a note")
    assert read_series(folder).array.shape == (7, 5, 6)
    last = max(folder.glob("IM*"), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    last.write_bytes(b"")
    with pytest.raises(DataError, match=f"{last.name} is no DICOM file, although it is named like those"):
        read_series(folder)


def test_what_is_no_image_lies_beside_a_series_without_harm(write_series: WriteSeries, tmp_path: Path) -> None:
    folder, report = write_series(), tmp_path / "report"

    def plan(k: int, data: Any) -> bool:
        data.Modality = "RTSTRUCT"
        del data.Rows, data.Columns, data.PixelData
        return k == 0

    (write_series("report", plan) / "0.dcm").rename(folder / "plan.dcm")
    assert read_series(folder).array.shape == (7, 5, 6)
    (found,) = find_series(folder)
    assert (found.modality, len(found.files)) == ("CT", 6)
    assert not list(report.iterdir())


def test_a_damaged_series_costs_no_other(write_series: WriteSeries, tmp_path: Path) -> None:
    write_series("set/b")
    (write_series("set/a") / "3.dcm").write_bytes(b"")
    bad, good = find_series(tmp_path / "set")
    assert "3.dcm" in bad.fault and bad.folder.name == "a"
    assert not good.fault and len(good.files) == 6


def test_a_header_that_declares_gigabytes_allocates_nothing(write_series: WriteSeries) -> None:
    def huge(k: int, data: Any) -> None:
        data.Rows = data.Columns = 65535

    folder = write_series(change=huge)
    with pytest.raises(DataError, match=r"6 x 65535 x 65535 voxels.*at most 4,294,967,296"):
        read_series(folder)


def test_a_single_slice_needs_a_thickness(write_series: WriteSeries) -> None:
    assert read_series(write_series("one", leave_out(1, 2, 3, 4, 5))).geometry.spacing[2] == pytest.approx(2.5)

    def change(k: int, data: Any) -> bool:
        del data.SliceThickness
        return k == 0

    with pytest.raises(DataError, match="without a thickness"):
        read_series(write_series("two", change))


def test_without_pydicom_the_extra_is_named(write_series: WriteSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series()
    real = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "pydicom":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ConfigError, match=r"pip install medformer\[dicom\]"):
        read_volume(folder)


def test_labels_for_a_series_are_written_where_it_lies(write_series: WriteSeries, tmp_path: Path) -> None:
    folder = write_series()
    labels = np.random.default_rng(0).integers(0, 3, (7, 5, 6)).astype(np.uint8)
    write_labels(tmp_path / "labels.nii.gz", labels, folder)
    found = read_labels(tmp_path / "labels.nii.gz")
    assert np.array_equal(found.array, labels)
    np.testing.assert_allclose(found.geometry.affine, read_geometry(folder).affine, atol=1e-5)
    header = nibabel.load(tmp_path / "labels.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    write_labels(tmp_path / "again.nii.gz", labels, read_volume(folder))
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "labels.nii.gz").read_bytes()


@pytest.mark.real_data
def test_real_series_are_read_as_highdicom_reads_them(medformer_data: Path) -> None:
    found = find_series(medformer_data / "volumes" / "hippocampus_dicom")
    assert [len(entry.files) for entry in found] == [32, 35, 40]
    for entry in found:
        volume = read_volume(entry.folder)
        array, affine = by_highdicom(entry.folder)
        assert np.array_equal(volume.array, array)
        assert np.array_equal(volume.geometry.affine, affine)
        assert isinstance(read_geometry(entry.folder), Geometry)
