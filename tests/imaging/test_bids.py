from __future__ import annotations

import json
from pathlib import Path

import pytest

from medformer.errors import DataError
from medformer.imaging.bids import find_scans

MNI = "space-MNI152NLin2009cAsym_res-2"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_each_scan_is_found_with_what_lies_beside_it(tmp_path: Path) -> None:
    func = tmp_path / "sub-01" / "ses-a" / "func"
    stem = f"sub-01_ses-a_task-rest_run-1_{MNI}"
    touch(
        func,
        f"{stem}_desc-preproc_bold.nii.gz",
        f"{stem}_desc-brain_mask.nii.gz",
        "sub-01_ses-a_task-rest_run-1_desc-confounds_timeseries.tsv",
    )
    (func / f"{stem}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": 1.5}))
    touch(tmp_path / "sub-02" / "func", f"sub-02_task-rest_{MNI}_desc-preproc_bold.nii.gz")
    touch(tmp_path / "sub-02" / "func", "sub-02_task-rest_desc-confounds_regressors.tsv")
    first, second = find_scans(tmp_path)
    assert (first.id, first.subject) == ("sub-01_ses-a_task-rest_run-1", "sub-01")
    assert first.mask == func / f"{stem}_desc-brain_mask.nii.gz"
    assert first.confounds == func / "sub-01_ses-a_task-rest_run-1_desc-confounds_timeseries.tsv"
    assert first.repetition_time == 1.5
    assert (second.id, second.mask, second.repetition_time) == ("sub-02_task-rest", None, None)
    assert second.confounds is not None
    assert second.confounds.name.endswith("regressors.tsv")


def test_native_space_is_passed_over_and_a_space_or_task_can_be_chosen(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01_task-rest_desc-preproc_bold.nii.gz",
        "sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz",
        f"sub-01_task-rest_{MNI}_desc-preproc_bold.nii.gz",
        f"sub-01_task-faces_{MNI}_desc-preproc_bold.nii.gz",
    )
    assert [scan.id for scan in find_scans(tmp_path)] == ["sub-01_task-faces", "sub-01_task-rest"]
    assert [scan.id for scan in find_scans(tmp_path, task="rest")] == ["sub-01_task-rest"]
    assert "T1w" in find_scans(tmp_path, space="T1w")[0].path.name


def test_a_choice_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    touch(
        tmp_path,
        f"sub-01_task-rest_{MNI}_desc-preproc_bold.nii.gz",
        "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
    )
    with pytest.raises(DataError, match=r"more than once .*--space"):
        find_scans(tmp_path)
    assert len(find_scans(tmp_path, space="MNI152NLin6Asym")) == 1


def test_nothing_found_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        find_scans(tmp_path / "none")
    with pytest.raises(DataError, match=r"found 0 files .*bold\.nii\.gz\.$"):
        find_scans(tmp_path)
    touch(tmp_path, "sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz")
    with pytest.raises(DataError, match=r"spaces T1w; tasks rest"):
        find_scans(tmp_path)
    with pytest.raises(DataError, match="of task faces"):
        find_scans(tmp_path, task="faces")
