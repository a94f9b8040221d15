"""Volumes for prediction are found at any depth, each with an id and its channels in the order of their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from medformer.data.problems import Problem
from medformer.data.volumes.read.new_volumes import list_volumes
from medformer.errors import DataError
from tests.data.volumes.test_layouts import dicom_file, volume


def listed(*given: Path, channels: int = 1, without: Path | None = None) -> tuple[dict[str, list[str]], list[Problem]]:
    problems: list[Problem] = []
    cases = list_volumes(given, problems, channels=channels, without=without)
    return {case.id: [path.name for path in case.images] for case in cases}, problems


def test_channels_follow_their_numbers_and_not_their_folders(tmp_path: Path) -> None:
    volume(tmp_path / "t1" / "p1_0000.nii.gz")
    volume(tmp_path / "flair" / "p1_0001.nii.gz")
    expected = {"p1": ["p1_0000.nii.gz", "p1_0001.nii.gz"]}
    assert listed(tmp_path, channels=2) == (expected, [])
    assert listed(tmp_path / "flair", tmp_path / "t1", channels=2) == (expected, [])


def test_channels_of_patients_in_folders(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for channel in range(2):
            volume(tmp_path / patient / f"scan_{channel:04}.nii.gz")
    assert set(listed(tmp_path, channels=2)[0]) == {"p1/scan", "p2/scan"}


def test_a_gap_names_the_missing_channel_and_the_others_are_listed(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0002", "c"):
        volume(tmp_path / f"{name}.nii.gz")
    found, problems = listed(tmp_path, channels=2)
    assert list(found) == ["a"]
    assert [(problem.case_id, problem.severity) for problem in problems] == [("c", "error"), ("b", "error")]
    assert "0000, 0002; expected 0000, 0001: _0001 is missing" in problems[1].detail


def test_the_number_of_an_only_channel_is_no_part_of_the_id(tmp_path: Path) -> None:
    volume(tmp_path / "case_020_0000.nii.gz")
    assert listed(tmp_path)[0] == {"case_020": ["case_020_0000.nii.gz"]}
    # Numbered cases are not channels.
    volume(tmp_path / "case_020_0001.nii.gz")
    found, problems = listed(tmp_path)
    assert set(found) == {"case_020_0000", "case_020_0001"}
    assert [(problem.case_id, problem.reason, problem.severity) for problem in problems] == [
        ("case_020", "numbered", "warning")
    ]
    (tmp_path / "case_020_0000.nii.gz").unlink()
    assert [problem.reason for problem in listed(tmp_path)[1]] == ["numbered"], "perhaps the second of two channels"


def test_ids_are_paths_below_the_folder(tmp_path: Path) -> None:
    for subject in ("s0001", "s0002"):
        volume(tmp_path / subject / "ct.nii.gz")
        volume(tmp_path / subject / "segmentations" / "liver.nii.gz")
    found, problems = listed(tmp_path)
    assert set(found) == {"s0001/ct", "s0002/ct"}
    assert {problem.reason for problem in problems} == {"is-labels"} and len(problems) == 2
    # As a shell gives them, and one by one.
    assert set(listed(tmp_path / "s0001", tmp_path / "s0002")[0]) == {"s0001/ct", "s0002/ct"}
    assert set(listed(*tmp_path.glob("*/ct.nii.gz"))[0]) == {"s0001/ct", "s0002/ct"}
    assert set(listed(tmp_path / "s0001")[0]) == {"ct"}
    assert set(listed(tmp_path / "s0001" / "segmentations")[0]) == {"liver"}


def test_series_and_files_below_one_folder_are_both_found(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    dicom_file(tmp_path / "archive" / "STUDY" / "CT" / "a.dcm", "X", "1.2.1")
    scans = tmp_path / "scans"
    dicom_file(scans / "PATIENT" / "STUDY" / "CT" / "a", "X", "1.2.2")
    volume(scans / "report" / "extra.nii.gz")
    (scans / "LINKED").symlink_to(tmp_path / "archive")
    (scans / "LINKED" / "loop").symlink_to(scans)
    assert set(listed(scans)[0]) == {"report/extra", "PATIENT/STUDY/CT", "LINKED/STUDY/CT"}


def test_results_and_broken_links_are_left_out(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz")
    volume(tmp_path / "out" / "masks" / "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "gone")
    found, problems = listed(tmp_path, without=tmp_path / "out")
    assert list(found) == ["a"]
    assert [(problem.case_id, problem.reason) for problem in problems] == [("b", "broken-link")]


def test_nothing_and_two_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No volume in"):
        listed(tmp_path)
    volume(tmp_path / "a.nii")
    volume(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="have one name, 'a'"):
        listed(tmp_path)
