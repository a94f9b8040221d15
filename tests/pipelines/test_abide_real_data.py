"""Real connectomes: the project's folder layout from end to end, and what is known of the cohort."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medformer.files import read_csv

Medformer = Callable[..., Any]

pytestmark = pytest.mark.real_data


@pytest.fixture
def abide() -> Path:
    folder = os.environ.get("MEDFORMER_DATA")
    if not folder:
        pytest.skip("MEDFORMER_DATA is not set")
    return Path(folder) / "abide"


def test_the_folder_layout_of_the_project_runs_end_to_end(abide: Path, tmp_path: Path, medformer: Medformer) -> None:
    cohort, run = tmp_path / "cohort", tmp_path / "run"
    prepared = medformer("abide", "prepare", abide / "pcp_layout_sample", "--out", cohort)
    assert prepared.code == 0, prepared.err
    assert "24 subjects (12 autism, 12 control) from 12 sites, atlases aal (116), cc200 (200), ho (111)" in prepared.out
    assert "77 no-file" in prepared.out and "164 not-usable" in prepared.out
    assert medformer("abide", "check", cohort).code == 0
    settings = ("crossval.folds=2", "training.epochs=2", "--no-baselines")
    result = medformer("abide", "crossval", "--data", cohort, "--out", run, *settings)
    assert result.code == 0, result.err
    tested = read_csv(run / "oof.csv")
    assert len(tested) == 24
    assert (run / "report.html").is_file()
    # New subjects come as the project's files; of one that a fold held back, that fold's network says the same again.
    result = medformer("abide", "predict", run, abide / "pcp_layout_sample", "--out", tmp_path / "predicted")
    assert result.code == 0, result.err
    found = {row["id"]: row for row in read_csv(tmp_path / "predicted" / "predictions.csv")}
    for row in tested:
        assert float(found[row["id"]][f"score_fold_{row['fold']}"]) == float(row["score"])


def test_the_one_scan_under_two_names_gets_one_group(abide: Path, tmp_path: Path, medformer: Medformer) -> None:
    prepared = medformer("abide", "prepare", abide / "abide_fc_697.npz", "--out", tmp_path / "cohort", "--atlas", "ho")
    assert prepared.code == 0, prepared.err
    rows = {row["id"]: row for row in read_csv(tmp_path / "cohort" / "manifest.csv")}
    assert len(rows) == 697
    assert len({row["group"] for row in rows.values()}) == 696
    assert rows["Yale_0050578"]["group"] == rows["Yale_0050602"]["group"]
