"""Every layout gives its cases, labels and channels, and whatever does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.read.dataset_file import DatasetInfo, read_info, write_info
from medformer.data.volumes.read.layout_readers import VolumeScan
from medformer.data.volumes.read.layouts import (
    declared_info,
    info_from_records,
    scan_volumes,
    with_hashes,
)
from medformer.data.volumes.read.several_folders import scan_folders
from medformer.errors import ConfigError, DataError

LABELS = {"0": "background", "1": "liver", "2": "tumor"}


def volume(path: Path, values: object = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.full((4, 5, 6), values, dtype=np.uint8), np.eye(4)).to_filename(path)
    return path


def described(folder: Path, **content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}, "labels": LABELS} | content))
    return folder


def msd(folder: Path, *names: str) -> Path:
    for name in names:
        volume(folder / "imagesTr" / f"{name}.nii.gz")
        volume(folder / "labelsTr" / f"{name}.nii.gz")
    return described(folder, training=[{"image": f"./imagesTr/{name}.nii.gz"} for name in names])


def nnunet(folder: Path, names: list[str], channels: int = 2, **content: Any) -> Path:
    for name in names:
        volume(folder / "labelsTr" / f"{name}.nii.gz")
        for channel in range(channels):
            volume(folder / "imagesTr" / f"{name}_{channel:04}.nii.gz")
    second = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "edema": 1, "core": 2}}
    return described(folder, **second, file_ending=".nii.gz", **content)


def info_of(found: VolumeScan) -> DatasetInfo:
    return found.info or info_from_records(
        found.cases, inspect_volumes(found.cases), channels=found.channels, patients=found.patients
    )


def reasons(found: VolumeScan) -> list[tuple[str, str]]:
    return [(problem.case_id, problem.reason) for problem in found.problems]


def test_decathlon(tmp_path: Path) -> None:
    folder = msd(tmp_path / "Task09_Spleen", "spleen_10", "spleen_2")
    found = scan_volumes(folder)
    assert (found.layout, reasons(found)) == ("msd", [])
    assert [(case.id, case.group, case.site) for case in found.cases] == [
        ("spleen_2", "spleen_2", "Task09_Spleen"),
        ("spleen_10", "spleen_10", "Task09_Spleen"),
    ]
    assert found.cases[0].mask == folder / "labelsTr" / "spleen_2.nii.gz"
    assert info_of(found).labels == ((1, "liver"), (2, "tumor"))
    assert (info_of(found).channels, info_of(found).patients) == (("CT",), "case is patient")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = msd(tmp_path, "a", "b", "c", "d")
    (folder / "labelsTr" / "a.nii.gz").unlink()
    (folder / "imagesTr" / "b.nii.gz").unlink()
    (folder / "imagesTr" / "._c.nii.gz").write_bytes(b"macOS")
    (folder / "imagesTr" / "notes.txt").write_text("")
    volume(folder / "imagesTr" / "d.nii")
    volume(folder / "imagesTs" / "e.nii.gz")
    found = scan_volumes(folder)
    # The list names one of the two files of `d`, which only the report of the two stops.
    assert [case.id for case in found.cases] == ["a", "c", "d"]
    assert reasons(found) == [
        ("notes", "not-an-image"),
        ("d", "duplicate-name"),
        ("a", "missing-mask"),
        ("b", "listed-missing"),
        ("imagesTs", "without-labels"),
    ]


def test_without_a_list_the_folders_decide(tmp_path: Path) -> None:
    folder = described(msd(tmp_path, "a", "b", "c"), numTraining=3)
    (folder / "labelsTr" / "a.nii.gz").unlink()
    (folder / "imagesTr" / "b.nii.gz").unlink()
    (folder / "imagesTr" / "d.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    found = scan_volumes(folder)
    assert [case.id for case in found.cases] == ["a", "c"]
    assert reasons(found) == [
        ("d", "broken-link"),
        ("a", "missing-mask"),
        ("b", "missing-image"),
        ("dataset.json", "count-differs"),
    ]
    assert "gone.nii.gz" in found.problems[0].detail


@pytest.mark.parametrize("layout", ["msd", "nnunet", "nnunet of the decathlon"])
def test_only_what_the_list_names_is_used(tmp_path: Path, layout: str) -> None:
    names = ["la_000", "la_001", "la_002"]
    if layout == "msd":
        folder = msd(tmp_path, *names)
        volume(folder / "labelsTr" / "first.nii.gz")
        training = [{"image": "./imagesTr/la_000.nii.gz", "label": "./labelsTr/first.nii.gz"}]
        described(folder, training=training, test=["./imagesTs/la_009.nii.gz"])
    elif layout == "nnunet":
        folder = nnunet(tmp_path, names, channels=1)
        images = ["imagesTr/la_000_0000.nii.gz"]
        described(folder, dataset={"la_000": {"images": images, "label": "labelsTr/la_000.nii.gz"}})
    else:
        folder = nnunet(tmp_path, names, channels=1)
        described(folder, training=[{"image": "./imagesTr/la_000.nii.gz", "label": "./labelsTr/la_000.nii.gz"}])
    found = scan_volumes(folder)
    assert [(case.id, case.split) for case in found.cases] == [("la_000", "")]
    left_out = next(problem for problem in found.problems if problem.reason == "not-listed")
    assert left_out.severity == "warning" and "2 cases: la_001, la_002" in left_out.detail
    if layout == "msd":
        assert found.cases[0].mask == folder / "labelsTr" / "first.nii.gz"
        assert reasons(found)[-1] == ("imagesTs", "without-labels"), "nobody needs a test image without a label map"
        assert "1 listed case without labels" in found.problems[-1].detail


def test_the_list_says_which_cases_validate_and_test(tmp_path: Path) -> None:
    folder = msd(tmp_path, "a", "b")
    for part in ("imagesTs", "labelsTs"):
        for name in ("c", "d"):
            volume(folder / part / f"{name}.nii.gz")
    lists = {"training": ["imagesTr/a.nii.gz"], "validation": ["imagesTr/b.nii.gz"], "test": ["imagesTs/c.nii.gz"]}
    found = scan_volumes(described(folder, **lists))
    assert [(case.id, case.split) for case in found.cases] == [("a", "train"), ("b", "val"), ("c", "test")]
    assert reasons(found) == [("imagesTs", "not-listed")]


def test_an_id_of_two_cases_is_named_with_both_files(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["case_000", "case_001"], channels=1)
    described(folder)
    test = volume(folder / "imagesTs" / "case_000_0000.nii.gz")
    volume(folder / "labelsTs" / "case_000.nii.gz")
    with pytest.raises(DataError, match="1 id") as caught:
        scan_volumes(folder)
    assert str(test) in str(caught.value) and str(folder / "imagesTr" / "case_000_0000.nii.gz") in str(caught.value)


def test_a_stray_file_does_not_change_the_layout(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a", "b", "c"], channels=2)
    volume(folder / "imagesTr" / "stray.nii.gz")
    found = scan_volumes(folder)
    assert (found.layout, [case.id for case in found.cases]) == ("nnunet", ["a", "b", "c"])
    assert reasons(found) == [("stray", "not-an-image")]
    other = msd(tmp_path / "msd", "x", "y")
    volume(other / "imagesTr" / "z_0000.nii.gz")
    volume(other / "labelsTr" / "z.nii.gz")
    assert scan_volumes(other).layout == "msd"


def test_linked_folders_are_entered_and_loops_end(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    dicom_file(tmp_path / "archive" / "CT" / "a.dcm", "X", "1.2.1")
    root = tmp_path / "scans"
    root.mkdir()
    (root / "p1").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "loop").symlink_to(root)
    assert [case.id for case in scan_volumes(root).cases] == ["p1/CT"]


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nnunet(tmp_path, ["a", "b"])
    listing = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "labelsTr":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"labelsTr cannot be listed \(Permission denied\)"):
        scan_volumes(folder)


def test_the_hippocampi_of_one_scan_stay_together(tmp_path: Path) -> None:
    found = scan_volumes(msd(tmp_path, "hippocampus_003", "hippocampus_004", "hippocampus_005"))
    first, second, third = (case.group for case in found.cases)
    assert first == second != third
    assert info_of(found).patients == "inferred"


def test_nnunet_with_two_channels_and_a_test_part(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["case_0001", "case_0002"])
    volume(folder / "labelsTs" / "x.nii.gz")
    for channel in range(2):
        volume(folder / "imagesTs" / f"x_{channel:04}.nii.gz")
    found = scan_volumes(folder)
    assert (found.layout, reasons(found)) == ("nnunet", [])
    assert [(case.id, case.split) for case in found.cases] == [
        ("case_0001", "train"),
        ("case_0002", "train"),
        ("x", "test"),
    ]
    assert [path.name for path in found.cases[0].images] == ["case_0001_0000.nii.gz", "case_0001_0001.nii.gz"]
    assert info_of(found).labels == ((1, "edema"), (2, "core"))
    assert info_of(found).channels == ("T1", "T2")


def test_nnunet_without_one_channel(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a", "b"])
    (folder / "imagesTr" / "b_0000.nii.gz").unlink()
    found = scan_volumes(folder)
    assert [case.id for case in found.cases] == ["a"]
    assert reasons(found) == [("b", "wrong-channels"), ("b", "missing-image")]
    assert "has the channels 0001; expected 0000, 0001: _0000 is missing (T1, T2)" in found.problems[0].detail


def test_a_gap_in_the_numbers_names_the_missing_channel(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a", "b"])
    (folder / "imagesTr" / "a_0001.nii.gz").rename(folder / "imagesTr" / "a_0002.nii.gz")
    found = scan_volumes(folder)
    assert reasons(found) == [("a", "wrong-channels"), ("a", "missing-image")]
    assert "has the channels 0000, 0002; expected 0000, 0001: _0001 is missing" in found.problems[0].detail


def test_plain_folders_may_number_channels_too(tmp_path: Path) -> None:
    for name in ("p1", "p2", "p3"):
        volume(tmp_path / "labels" / f"{name}.nii.gz", 1)
        for channel in range(1 if name == "p3" else 2):
            volume(tmp_path / "images" / f"{name}_{channel:04}.nii.gz")
    found = scan_volumes(tmp_path, ungrouped="each")
    assert [(case.id, len(case.images)) for case in found.cases] == [("p1", 2), ("p2", 2)]
    assert reasons(found) == [("p3", "wrong-channels"), ("p3", "missing-image")]
    assert "_0001 is missing" in found.problems[0].detail


def test_four_digits_that_label_maps_share_are_no_channel(tmp_path: Path) -> None:
    assert scan_volumes(msd(tmp_path, "case_0001", "case_0002")).layout == "msd"


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order is None"),
        ({"background": 0, "core": 1, "ignore": 2}, "'ignore'"),
    ],
)
def test_regions_without_order_and_ignored_voxels_are_refused(
    tmp_path: Path, labels: dict[str, Any], match: str
) -> None:
    described(nnunet(tmp_path, ["a"], 1), channel_names={"0": "CT"}, labels=labels)
    with pytest.raises((ConfigError, DataError), match=match):
        scan_volumes(tmp_path)


def test_a_kind_of_file_that_is_not_read(tmp_path: Path) -> None:
    described(nnunet(tmp_path, ["a"], 1), file_ending=".nrrd")
    with pytest.raises(ConfigError, match=r"end in '\.nrrd'"):
        scan_volumes(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "Expecting value"),
        ("[]", "holds no object"),
        ("{}", "it has no labels"),
        ('{"modality": {"0": "CT"}}', "it has no labels"),
        ('{"labels": {"0": "background"}}', "neither channel_names nor modality"),
        ('{"modality": [], "labels": {}}', "modality names no channel"),
        ('{"modality": {"0": "T1", "2": "T2"}, "labels": {}}', r"numbers 0, 2; expected 0 to 1"),
        ('{"modality": {"0": "CT"}, "labels": "liver"}', "no object of values and names"),
        ('{"modality": {"0": "CT"}, "labels": ["liver", "tumor"]}', "does not begin with the background"),
        ('{"modality": {"0": "CT"}, "labels": {"liver": null}}', "the label None is not a whole number"),
        ('{"modality": {"0": "CT"}, "labels": {"liver": 1.5}}', "the label 1.5 is not a whole number"),
        ('{"modality": {"0": "CT"}, "labels": {"0": "background", "1.5": "a"}}', "the label '1.5' is not a whole"),
        ('{"modality": {"0": "CT"}, "labels": {"0": "background", "-1": "a"}}', r"the values \[-1\]"),
        ('{"modality": {"0": "CT"}, "labels": {"0": "background", "1": null}}', "the label 1 is named None"),
        ('{"modality": {"0": "CT"}, "labels": {"1": "a"}, "training": {"a": "b"}}', "training is an object with a"),
    ],
)
def test_a_damaged_description(tmp_path: Path, text: str, match: str) -> None:
    (msd(tmp_path, "a") / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        scan_volumes(tmp_path)
    assert "dataset.json" in str(caught.value)


def test_a_missing_description_says_what_to_write(tmp_path: Path) -> None:
    (msd(tmp_path, "a") / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json is missing.*file_ending.*rename the two folders"):
        scan_volumes(tmp_path)


def test_lists_in_a_description_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = json.dumps({"modality": ["T1"], "labels": ["background", "liver", "7102"]})
    (msd(tmp_path, "a") / "dataset.json").write_text(text, "utf-8-sig")
    info = info_of(scan_volumes(tmp_path))
    # A value is no name.
    assert (info.channels, info.labels) == (("T1",), ((1, "liver"), (2, "label 7102")))


def test_plain_folders_name_labels_after_their_values(tmp_path: Path) -> None:
    for name in ("p1_t0", "p1_t1", "p2_t0"):
        volume(tmp_path / "images" / f"{name}.nii.gz")
        volume(tmp_path / "masks" / f"{name}.nii", values=np.arange(6) % 2 * 7)
    with pytest.raises(DataError, match="3 of 3 volumes have no patient"):
        scan_volumes(tmp_path)
    found = scan_volumes(tmp_path, group_pattern="^(p\\d)_")
    assert [case.group for case in found.cases] == ["p1", "p1", "p2"]
    info = info_of(found)
    assert (info.labels, info.channels, info.patients) == (((7, "label 7"),), ("channel 1",), "known")
    assert scan_volumes(tmp_path, ungrouped="each").patients == "case is patient"


def test_a_pattern_that_misses_a_case(tmp_path: Path) -> None:
    folder = msd(tmp_path, "p1_a", "other")
    with pytest.raises(DataError, match="1 of 2 volumes have no patient, such as 'other'"):
        scan_volumes(folder, group_pattern="^(p\\d)_")
    with pytest.raises(DataError, match=r"--group-pattern '\(q\)' finds nothing in these names: correct it"):
        scan_volumes(folder, group_pattern="(q)")
    found = scan_volumes(folder, group_pattern="^(p\\d)_", ungrouped="each")
    assert {case.id: case.group for case in found.cases} == {"p1_a": "p1", "other": "other"}


def test_images_alone(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz")
    found = scan_volumes(tmp_path, ungrouped="each", site="Paris")
    assert found.cases[0].site == "Paris"
    assert (found.cases[0].mask, reasons(found), info_of(found).labels) == (None, [], ())


def test_dicom_series_are_grouped_by_a_pseudonym_of_the_patient(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    root = tmp_path / "scans"
    for name, patient, series in (
        ("p/before", "Doe^Jane", "1.2.1"),
        ("p/after", "Doe^Jane", "1.2.2"),
        ("q/only", "X", "1.2.3"),
        ("two", "Y", "1.2.4"),
        ("two", "Y", "1.2.5"),
    ):
        dicom_file(root / name / f"{series}.dcm", patient, series)
    volume(root / "labels" / "q" / "only.nii.gz", 1)
    dicom_file(root / "labels" / "p" / "after" / "1-1.dcm", "Doe^Jane", "1.2.9")
    (root / "r").mkdir()
    (root / "r" / "cut.dcm").write_bytes(b"")
    found = scan_volumes(root)
    assert [case.id for case in found.cases] == ["p/after", "p/before", "q/only"]
    after, before, only = found.cases
    assert after.group == before.group != only.group
    assert "Doe" not in after.group
    assert only.mask == root / "labels" / "q" / "only.nii.gz"
    assert after.mask == root / "labels" / "p" / "after" / "1-1.dcm", "a segmentation in a folder of its own"
    assert (found.info, found.channels, found.patients) == (None, ("MR",), "known")
    assert reasons(found) == [("r", "corrupt"), ("two", "several-series"), ("p/before", "missing-mask")]


def dicom_file(path: Path, patient: str, series: str) -> None:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    path.parent.mkdir(parents=True, exist_ok=True)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{series}.1"
    data.SeriesInstanceUID, data.PatientID, data.Modality = series, patient, "MR"
    data.save_as(path, enforce_file_format=True)


def test_an_unknown_layout_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"no known layout; found notes\.txt"):
        scan_volumes(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        scan_volumes(tmp_path / "gone")


def test_manifest_and_sidecar_round_trip(tmp_path: Path) -> None:
    found = scan_volumes(nnunet(tmp_path / "data", ["a", "b"]))
    path = tmp_path / "manifest.csv"
    cases = with_hashes(found.cases)
    records = inspect_volumes(found.cases)
    assert with_hashes(found.cases, records) == cases
    assert all(case.sha256 and case.covariates["mask_sha256"] for case in cases)
    write_manifest(path, cases)
    manifest = read_manifest(path)
    assert manifest.cases == cases
    assert declared_info(manifest) is None
    # Without a sidecar, the files say what they can.
    assert info_from_records(manifest.cases, records).channels == ("channel 1", "channel 2")
    assert found.info is not None
    write_info(path, found.info)
    assert read_info(path) == declared_info(manifest) == found.info


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"labels": {"0": "x"}}, r"values \[0\]"),
        ({"labels": {"1": "x", "2": "x"}}, "each once"),
        ({"labels": {"1.5": "x"}}, "does not describe"),
        ({"labels": {"1": " "}}, "not empty"),
        ({"channels": []}, "No channel"),
        ({"patients": "perhaps"}, "patients are 'perhaps'"),
    ],
)
def test_a_bad_sidecar_is_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    good = {"format": "medformer-volumes/1", "labels": {"1": "x"}, "channels": ["CT"], "patients": "known"}
    (tmp_path / "m.csv.dataset.json").write_text(json.dumps(good | change))
    with pytest.raises(DataError, match=match) as caught:
        read_info(tmp_path / "m.csv")
    assert "m.csv.dataset.json" in str(caught.value)


@pytest.mark.real_data
def test_the_decathlon_hippocampus(medformer_data: Path) -> None:
    found = scan_volumes(medformer_data / "volumes" / "Task04_Hippocampus")
    assert (len(found.cases), found.problems, info_of(found).patients) == (200, (), "inferred")
    assert len({case.group for case in found.cases}) == 150
    assert info_of(found).labels == ((1, "Anterior"), (2, "Posterior"))


@pytest.mark.real_data
def test_the_shared_dicom_series(medformer_data: Path) -> None:
    pytest.importorskip("highdicom")
    found = scan_volumes(medformer_data / "volumes" / "hippocampus_dicom")
    assert (found.layout, len(found.cases), len({case.group for case in found.cases})) == ("dicom", 3, 3)


def test_why_no_case_is_complete_is_said(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a", "b"])
    for name in "ab":
        (folder / "imagesTr" / f"{name}_0001.nii.gz").rename(folder / "imagesTr" / f"{name}_0002.nii.gz")
    with pytest.raises(DataError, match=r"No complete case.*\n.*a: wrong-channels: .*_0001 is missing"):
        scan_volumes(folder)


def test_channels_that_are_not_numbered_with_four_digits(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a"])
    for channel in range(2):
        path = folder / "imagesTr" / f"a_{channel:04}.nii.gz"
        path.rename(folder / "imagesTr" / f"a_{channel:03}.nii.gz")
    with pytest.raises(DataError, match=r"a_000.nii.gz for the label map a.nii.gz; .* such as a_0000"):
        scan_volumes(folder)


def test_images_and_label_maps_without_a_common_name(tmp_path: Path) -> None:
    for number in (1, 2):
        volume(tmp_path / "images" / f"img{number}.nii.gz")
        volume(tmp_path / "labels" / f"label{number}.nii.gz")
    with pytest.raises(DataError, match=r"first image is img1 .* first label map label1 .*expected equal names"):
        scan_volumes(tmp_path, ungrouped="each")


def test_a_list_that_pairs_otherwise_and_a_part_that_no_layout_knows(tmp_path: Path) -> None:
    folder = msd(tmp_path, "a", "b")
    pairs = [{"image": f"imagesTr/{one}.nii.gz", "label": f"labelsTr/{two}.nii.gz"} for one, two in ("ab", "ba")]
    described(folder, training=pairs, numTraining=3)
    volume(folder / "imagesVa" / "c.nii.gz")
    assert sorted(reasons(scan_volumes(folder))) == [
        ("a", "paired-otherwise"),
        ("b", "paired-otherwise"),
        ("dataset.json", "count-differs"),
        ("imagesVa", "not-read"),
    ]


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_case_that_is_listed_twice(tmp_path: Path, part: str) -> None:
    folder = msd(tmp_path, "a", "b")
    entries = [{"image": f"imagesTr/{name}.nii.gz"} for name in "ab"]
    lists = {"training": [*entries, entries[0]]} if part == "training" else {"training": entries, "test": entries[:1]}
    described(folder, **lists)
    with pytest.raises(DataError, match=r"a: .*imagesTr/a.*\n.*lists them twice: remove one entry"):
        scan_volumes(folder)


def test_folders_whose_data_lie_elsewhere_name_the_place(tmp_path: Path) -> None:
    msd(tmp_path / "Task" / "Task", "a")
    with pytest.raises(DataError, match="Task/Task has one: give that folder"):
        scan_volumes(tmp_path / "Task")
    volume(tmp_path / "adrenal" / "images" / "a.nii.gz")
    (tmp_path / "adrenal" / "manifest.csv").write_text("id,image\na,images/a.nii.gz\n")
    write_info(tmp_path / "adrenal" / "manifest.csv", DatasetInfo((), ("CT",)))
    with pytest.raises(DataError, match=r"Give .*adrenal/manifest.csv itself"):
        scan_volumes(tmp_path / "adrenal")


def test_sites_are_read_from_names_and_every_name_must_have_one(tmp_path: Path) -> None:
    folder = msd(tmp_path, "BCN_001", "OSL_002")
    found = scan_volumes(folder, site_pattern=r"^([A-Z]{3})_")
    assert [case.site for case in found.cases] == ["BCN", "OSL"]
    named = scan_volumes(folder, site_pattern=r"^(?P<site>[A-Z]+)_(\d+)")
    assert [case.site for case in named.cases] == ["BCN", "OSL"]
    with pytest.raises(ConfigError, match=r"has 2 groups; expected exactly one.*\(\?P<site>"):
        scan_volumes(folder, site_pattern=r"^([A-Z]+)_(\d+)")
    with pytest.raises(DataError, match=r"finds nothing in 1 of 2 names; expected a site in each:\s+OSL_002"):
        scan_volumes(folder, site_pattern=r"^(BCN)")


def test_folders_below_images_and_labels_begin_the_ids(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        volume(tmp_path / part / "north" / "p1.nii.gz")
        volume(tmp_path / part / "south" / "p1.nii.gz")
    volume(tmp_path / "images" / "south" / "p2.nii.gz")
    found = scan_volumes(tmp_path, site_pattern="^([^/]+)/", group_pattern="(.+)")
    assert [(case.id, case.site, case.mask is None) for case in found.cases] == [
        ("north/p1", "north", False),
        ("south/p1", "south", False),
        ("south/p2", "south", True),
    ]
    assert reasons(found) == [("south/p2", "missing-mask")]


def test_several_folders_are_one_data_set_with_a_site_for_each(tmp_path: Path) -> None:
    oslo, lima = msd(tmp_path / "oslo", "001", "002"), msd(tmp_path / "lima", "001")
    found = scan_folders([oslo, lima, oslo])
    assert [(case.id, case.group, case.site) for case in found.cases] == [
        ("oslo/001", "oslo/001", "oslo"),
        ("oslo/002", "oslo/002", "oslo"),
        ("lima/001", "lima/001", "lima"),
    ]
    assert (info_of(found).channels, found.patients) == (("CT",), "case is patient")
    assert {case.site for case in scan_folders([oslo, lima], sites=["A", "B"]).cases} == {"A", "B"}
    assert [case.id for case in scan_folders([oslo], sites=["A"]).cases] == ["001", "002"]
    with pytest.raises(DataError, match=r"(?s)1 id is that of cases in two folders.*A/001"):
        scan_folders([oslo, lima], sites=["A"])
    with pytest.raises(ConfigError, match="Got 3 sites for 2 folders"):
        scan_folders([oslo, lima], sites=["A", "B", "C"])
    with pytest.raises(ConfigError, match="Got --site and --site-pattern"):
        scan_folders([oslo], sites=["A"], site_pattern="(0)")
    other = described(msd(tmp_path / "else" / "lima", "009"), labels={"0": "background", "1": "spleen"})
    with pytest.raises(ConfigError, match="Two folders are named lima; give a --site for each"):
        scan_folders([lima, other])
    with pytest.raises(DataError, match=r"declares the labels 1 spleen .* 1 liver, 2 tumor"):
        scan_folders([lima, other], sites=["A", "B"])


def test_a_folder_for_each_case_as_in_brats(tmp_path: Path) -> None:
    for case in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00002-000"):
        for place, part in enumerate(("t2f", "t1n", "seg", "t2w", "t1c")):
            volume(tmp_path / "training" / case / f"{case}-{part}.nii.gz", place)
    volume(tmp_path / "training" / "BraTS-GLI-00002-000" / "other.nii.gz")
    volume(tmp_path / "training" / "BraTS-GLI-00009-000" / "BraTS-GLI-00009-000-t1n.nii.gz")
    found = scan_volumes(tmp_path / "training")
    assert (found.layout, info_of(found).channels) == ("cases", ("t1n", "t1c", "t2w", "t2f"))
    assert [(case.id, case.group) for case in found.cases] == [
        ("BraTS-GLI-00002-000", "BraTS-GLI-00002"),
        ("BraTS-GLI-00005-000", "BraTS-GLI-00005"),
        ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
    ]
    first = found.cases[0]
    assert [image.name.removeprefix(f"{first.id}-") for image in first.images] == [
        f"{part}.nii.gz" for part in found.channels
    ]
    assert first.mask == tmp_path / "training" / first.id / f"{first.id}-seg.nii.gz"
    assert sorted(reasons(found)) == [("BraTS-GLI-00002-000", "not-read"), ("BraTS-GLI-00009-000", "wrong-channels")]
    assert info_of(found).labels == ((2, "label 2"),)


def test_earlier_brats_names_no_patients_and_may_lie_deeper(tmp_path: Path) -> None:
    for case in ("HGG/Brats18_A_1", "LGG/Brats18_B_1"):
        for part in ("flair", "t1", "t1ce", "t2", *(["seg"] if "A" in case else [])):
            volume(tmp_path / case / f"{Path(case).name}_{part}.nii.gz")
    with pytest.raises(DataError, match="2 of 2 volumes have no patient, such as 'HGG/Brats18_A_1'"):
        scan_volumes(tmp_path)
    found = scan_volumes(tmp_path, group_pattern=r"Brats18_(\w)")
    assert [(case.id, case.group) for case in found.cases] == [("HGG/Brats18_A_1", "A"), ("LGG/Brats18_B_1", "B")]
    assert found.channels == ("t1", "t1ce", "t2", "flair")
    assert reasons(found) == [("LGG/Brats18_B_1", "missing-mask")]


def test_a_map_for_each_structure_is_refused_with_advice(tmp_path: Path) -> None:
    volume(tmp_path / "s0001" / "ct.nii.gz")
    for structure in ("liver", "spleen"):
        volume(tmp_path / "s0001" / "segmentations" / f"{structure}.nii.gz")
    with pytest.raises(DataError, match=r"a label map for each structure.*images/s0001\.nii\.gz and labels/s0001"):
        scan_volumes(tmp_path)
