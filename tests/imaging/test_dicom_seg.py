"""A DICOM segmentation holds the voxels it was given, where its series lies, or there is no file and an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medformer.data.cases import Case
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import describe_volume, inspect_volumes
from medformer.data.volumes.read.layouts import info_from_records, scan_volumes
from medformer.errors import DataError, ResourceError
from medformer.imaging import dicom_seg
from medformer.imaging.dicom_files import find_series
from medformer.imaging.dicom_seg import write_dicom_seg
from medformer.imaging.geometry import Geometry, Volume, same_grid
from medformer.imaging.seg_frames import enclosing, open_seg, read_dicom_seg, segment_conflicts
from medformer.imaging.volumes import read_geometry, read_labels, read_volume
from medformer.inference.volumes.scoring import score_label_maps

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
    found = read_dicom_seg(tmp_path / "a.seg.dcm", read_geometry(source))
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
    assert np.array_equal(read_dicom_seg(tmp_path / "a.dcm", read_geometry(source)).array, labels)


def foreign(source: Path, pixels: Any, path: Path, *, kind: str = "BINARY", numbers: tuple[int, ...] = (1, 2)) -> Path:
    """A segmentation as another program writes it: without our tracking identifiers and without empty frames."""
    files = sorted(source.glob("*.dcm"))
    headers = sorted((pydicom.dcmread(path) for path in files), key=lambda header: int(header.InstanceNumber))
    codes = pydicom.sr.codedict.codes.SCT
    about = [
        highdicom.seg.SegmentDescription(number, f"part {number}", codes.Organ, codes.Liver, "MANUAL")
        for number in numbers
    ]
    for header in headers:
        for name in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientName", "ReferringPhysicianName"):
            setattr(header, name, "")
        header.PatientBirthDate = header.PatientSex = ""
    uid = highdicom.UID
    made = highdicom.seg.Segmentation(headers, pixels, kind, about, uid(), 9, uid(), 1, "maker", "model", "1", "1")
    made.save_as(path)
    return path


def in_file_order(labels: np.ndarray) -> np.ndarray:
    """Planes in the order of their instance numbers, (slices, rows, columns): the order that `sorted_slices` undoes."""
    return np.ascontiguousarray(labels.T[::-1])


def test_frames_left_out_by_other_programs_are_background(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    labels = np.zeros((7, 5, 6), np.uint8)
    labels[1:4, 1:3, 1], labels[2:5, 3, 1], labels[0, 0, 4] = 1, 2, 2
    path = foreign(source, in_file_order(labels), tmp_path / "a.dcm")
    assert int(pydicom.dcmread(path).NumberOfFrames) == 3
    assert np.array_equal(read_labels(path, read_geometry(source)).array, labels)
    assert np.array_equal(read_labels(path).array, labels[:, :, 1:5])
    numbered = foreign(source, in_file_order(labels), tmp_path / "b.dcm", kind="LABELMAP")
    assert np.array_equal(read_labels(numbered, read_geometry(source)).array, labels)


def test_frames_of_any_orientation_are_placed_where_they_lie(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    grid = read_geometry(source)
    labels = some_labels().clip(0, 2)
    frame = pydicom.dcmread(next(source.glob("*.dcm"))).FrameOfReferenceUID
    box = highdicom.Volume(labels, grid.affine, "PATIENT", frame, from_reference_convention="RAS")
    for turned in (box, box.flip_spatial((0, 2)), box.permute_spatial_axes((1, 2, 0)).flip_spatial(1)):
        path = foreign(source, turned, tmp_path / "a.dcm")
        assert np.array_equal(read_labels(path, grid).array, labels)


def test_what_is_no_label_map_is_refused_with_the_reason(write_series: WriteSeries, tmp_path: Path) -> None:
    source, other, labels = write_series(), write_series("other", moved), some_labels().clip(0, 2)
    grid = read_geometry(source)
    both = np.zeros((6, 5, 7, 2), np.uint8)
    both[2, 1, 1:3, 0], both[2, 1, 2:4, 1] = 1, 1
    half = np.zeros((6, 5, 7), np.float32)
    half[3, 2, 2:5] = 0.5
    for path, words in (
        (foreign(source, both, tmp_path / "both.dcm"), r"both\.dcm: the segments 1 and 2 overlap at voxel \(2, 1, "),
        (foreign(source, half, tmp_path / "half.dcm", kind="FRACTIONAL", numbers=(1,)), r"half\.dcm.*fractional"),
        (
            foreign(other, in_file_order(labels), tmp_path / "o.dcm"),
            r"o\.dcm: its frames lie between",
        ),
    ):
        with pytest.raises(DataError, match=words):
            read_labels(path, grid)
    whole = (half > 0).astype(np.float32)
    full = foreign(source, whole, tmp_path / "full.dcm", kind="FRACTIONAL", numbers=(1,))
    assert np.array_equal(read_labels(full, grid).array, in_file_order(whole.T).T)


def moved(k: int, data: Any) -> None:
    x, y, z = data.ImagePositionPatient
    data.ImagePositionPatient = [x, y + 0.4, z]


def test_a_segmentation_outside_of_its_image_is_refused(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    path = foreign(source, in_file_order(some_labels().clip(0, 2)), tmp_path / "a.dcm")
    grid = read_geometry(source)
    with pytest.raises(DataError, match=r"outside of the \(7, 5, 3\) voxels"):
        read_labels(path, Geometry((7, 5, 3), grid.affine))


def test_a_segmentation_of_another_scan_is_found(write_series: WriteSeries, tmp_path: Path) -> None:
    source, other = write_series(), write_series("other")
    path = foreign(other, in_file_order(some_labels().clip(0, 2)), tmp_path / "a.dcm")
    (problem,) = describe_volume(Case("a", source, path)).problems
    assert problem.reason == "affine-mismatch" and "frame of reference" in problem.detail
    assert describe_volume(Case("a", other, path)).problems == ()


def test_a_segmentation_labels_a_nifti_file_made_from_its_series(write_series: WriteSeries, tmp_path: Path) -> None:
    source, labels = write_series(), some_labels().clip(0, 2)
    image = read_volume(source)
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "labels").mkdir()
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(image.array, image.geometry.affine))
    turned.to_filename(tmp_path / "set" / "images" / "a.nii.gz")
    foreign(source, in_file_order(labels), tmp_path / "set" / "labels" / "a.dcm")
    (case,) = scan_volumes(tmp_path / "set", ungrouped="each").cases
    found = describe_volume(case)
    assert found.problems == ()
    assert found.facts["labels"] == {str(value): int((labels == value).sum()) for value in (0, 1, 2)}
    assert found.facts["channels"][0]["foreground_mean"] == pytest.approx(image.array[labels > 0].mean(), rel=1e-5)
    bare = case.required_mask().rename(tmp_path / "segmentation")
    assert np.array_equal(read_labels(bare, image.geometry).array, labels)


def test_two_segmentations_share_a_box(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    labels = some_labels().clip(0, 2)
    first = foreign(source, in_file_order(labels), tmp_path / "a.dcm")
    second = foreign(source, in_file_order(np.roll(labels, -2, axis=2)), tmp_path / "b.dcm")
    box = enclosing(open_seg(first).grid(), open_seg(second).grid())
    assert box.shape == (7, 5, 5)
    assert np.array_equal(read_labels(first, box).array, labels[:, :, :5])
    assert np.array_equal(read_labels(second, box).array, np.roll(labels, -2, axis=2)[:, :, :5])


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "GB18030", None])
def test_names_are_in_any_script(write_series: WriteSeries, tmp_path: Path, charset: str | None) -> None:
    def written_in(k: int, data: Any) -> None:
        if charset:
            data.SpecificCharacterSet = charset
            data.PatientName = "M\xfcller^J\xf6rg"

    source = write_series(change=written_in)
    names = {1: "\u816b\u7624", 2: "f\xf6ie \\ gras", 17: "a" * 80}
    write_dicom_seg(tmp_path / "a.dcm", some_labels(), names, source)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    assert data.SpecificCharacterSet == "ISO_IR 192"
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["\u816b\u7624", "f\xf6ie / gras", "a" * 64]
    if charset:
        assert data.PatientName == "M\xfcller^J\xf6rg"


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

    def other(path: Path, grid: Geometry | None = None) -> Volume:
        found = real(path, grid)
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
    assert np.array_equal(read_labels(tmp_path / "a.dcm", read_geometry(source)).array, some_labels())


@pytest.mark.real_data
def test_real_series_carry_segmentations(tmp_path: Path, medformer_data: Path) -> None:
    for entry in find_series(medformer_data / "volumes" / "hippocampus_dicom"):
        grid = read_geometry(entry.folder)
        labels = np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8)
        write_dicom_seg(tmp_path / "a.dcm", labels, {1: "Anterior", 2: "Posterior"}, entry.folder)
        found = read_dicom_seg(tmp_path / "a.dcm", grid)
        assert np.array_equal(found.array, labels)
        assert np.array_equal(found.geometry.affine, grid.affine)
        made = highdicom.seg.segread(tmp_path / "a.dcm")
        assert made.FrameOfReferenceUID == pydicom.dcmread(entry.files[0]).FrameOfReferenceUID


def test_segments_are_known_by_their_names(write_series: WriteSeries, tmp_path: Path) -> None:
    """A segmentation that numbers its segments otherwise would teach the liver as the tumor."""
    source = write_series()
    labels = (some_labels() > 0).astype(np.uint8)
    cases = []
    for number, names in enumerate(({1: "liver", 2: "tumor"}, {1: "Liver", 2: "tumor"}, {1: "tumor", 2: "liver"})):
        path = tmp_path / f"{number}.dcm"
        write_dicom_seg(path, labels, names, source)
        cases.append(Case(id=f"c{number}", image=source, mask=path, group=f"c{number}"))
    records = inspect_volumes(cases)
    info = info_from_records(cases, records)
    wrong = [
        (problem.case_id, problem.reason)
        for problem in volume_problems(cases, records, info)
        if problem.reason.startswith("segment")
    ]
    assert wrong == [("c2", "segment-numbers")] * 2
    assert info_from_records(cases[:1], records).labels == ((1, "liver"),)
    assert info.labels == ((1, "label 1"),), "the files disagree"


@pytest.mark.parametrize(
    ("named", "conflicts"),
    [
        ([{1: "a", 2: "b"}, {1: "A", 2: "b"}], {}),
        ([{1: "a", 2: "b"}, {1: "a", 2: "b"}, {1: "b"}], {"b": 2}),
        ([{1: "lesion", 2: "lesion"}, {1: "lesion"}], {}),
        ([{1: ""}, {2: ""}], {}),
    ],
)
def test_names_with_several_numbers(named: list[dict[int, str]], conflicts: dict[str, int]) -> None:
    assert segment_conflicts(named) == conflicts


def test_segmentations_that_number_otherwise_are_not_scored(write_series: WriteSeries, tmp_path: Path) -> None:
    source = write_series()
    labels = (some_labels() > 0).astype(np.uint8)
    for place, names in (("p", {1: "liver", 2: "tumor"}), ("m", {1: "tumor", 2: "Liver"})):
        (tmp_path / place).mkdir()
        write_dicom_seg(tmp_path / place / "a.dcm", labels, names, source)
    with pytest.raises(DataError, match=r"'tumor' is segment 2 of .*p/a.dcm and segment 1 of .*m/a.dcm"):
        score_label_maps(tmp_path / "p", tmp_path / "m")
