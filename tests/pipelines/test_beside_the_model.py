"""What runs beside the model on the same folds: baselines, the permuted-label canary, the site probe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.files import read_csv, read_json
from medformer.imaging.masks import write_mask
from medformer.inference.baselines.frames import PriorMask

Medformer = Callable[..., Any]


@pytest.fixture(scope="module")
def canary(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with everything beside it."""
    run = tmp_path_factory.mktemp("canary") / "run"
    result = medformer("polyp", "crossval", "--out", run, "--data", data, "--permute-labels", *settings)
    assert result.code == 0, result.err
    return run


def test_baselines_are_tested_on_the_same_cases_of_the_same_folds(finished: Path) -> None:
    own = [(row["id"], row["fold"], row["group"], row["truth"]) for row in read_csv(finished / "oof.csv")]
    found = sorted(path.name for path in (finished / "baselines").iterdir())
    assert found == ["pixel_color", "prior_mask"]
    for name in found:
        rows = read_csv(finished / "baselines" / name / "oof.csv")
        assert [(row["id"], row["fold"], row["group"], row["truth"]) for row in rows] == own
        assert read_json(finished / "baselines" / name / "metrics.json")["n"] == len(own)
    report = (finished / "report.html").read_text("utf-8")
    assert all(name in report for name in found)


def test_baselines_can_be_left_out_and_had_later(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("polyp", "crossval", "--out", run, "--data", data)
    assert medformer(*command, "--no-baselines", *settings, report=False).code == 0
    assert not (run / "baselines").exists()
    before = (run / "oof.csv").read_bytes()
    assert medformer(*command, "--resume", *settings, report=False).code == 0
    assert (run / "baselines" / "prior_mask" / "oof.csv").exists()
    assert (run / "oof.csv").read_bytes() == before


def test_a_failing_baseline_costs_the_model_nothing_and_is_tried_again(
    medformer: Medformer,
    finished: Path,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fit(self: PriorMask, cases: object) -> None:
        raise MemoryError

    run = tmp_path / "run"
    command = ("polyp", "crossval", "--out", run, "--data", data, *settings)
    with monkeypatch.context() as patched:
        patched.setattr(PriorMask, "fit", fit)
        failed = medformer(*command)
    failed.refused(5, "The model's results are complete", "Baseline prior_mask", "Out of memory", "--resume")
    assert (run / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()
    assert "Dice " in failed.out and f"Next: medformer polyp predict {run} NEW" in failed.out
    assert sorted(path.parent.name for path in (run / "baselines").glob("*/oof.csv")) == ["pixel_color"]
    assert "Baseline prior_mask: Out of memory" in (run / "report.html").read_text("utf-8")
    record = read_json(run / "run.json")
    assert record["state"] == "failed" and "prior_mask" in record["reason"]
    again = medformer(*command, "--resume", report=False)
    assert again.code == 0, again.err
    assert (run / "baselines/prior_mask/oof.csv").is_file() and read_json(run / "run.json")["state"] == "done"


def test_warnings_of_the_check_are_said_and_listed(
    medformer: Medformer, own_data: Any, settings: tuple[str, ...], tmp_path: Path
) -> None:
    case = own_data.read().cases[0]
    write_mask(case.mask, np.zeros((48, 64), bool))
    run = tmp_path / "run"
    command = ("polyp", "crossval", "--out", run, "--data", own_data.refresh(), "--no-baselines", *settings)
    result = medformer(*command, "training.epochs=1", report=False)
    assert result.code == 0, result.err
    assert f"1 warning(s) about the cases (1 empty-mask): {run / 'problems.csv'}" in result.err
    assert f"warning: {case.id}: empty-mask" in result.err
    assert [row["id"] for row in read_csv(run / "problems.csv")] == [case.id]


def test_the_canary_has_the_plan_of_the_run_and_the_masks_of_others(canary: Path, finished: Path) -> None:
    real, permuted = read_csv(canary / "oof.csv"), read_csv(canary / "canary" / "oof.csv")
    assert [(row["id"], row["fold"]) for row in permuted] == [(row["id"], row["fold"]) for row in real]
    areas = [[int(row["truth_px"]) for row in rows] for rows in (real, permuted)]
    assert areas[0] != areas[1]
    assert sorted(areas[0]) == sorted(areas[1]), "each mask is given once, and all images have one size"
    # The real folds are those of a run without a canary.
    assert (canary / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()
    assert "permuted" in (canary / "report.html").read_text("utf-8")


def test_one_site_is_not_probed(medformer: Medformer, own_data: Any, settings: tuple[str, ...], tmp_path: Path) -> None:
    """Two are, in every task; see test_every_task.py."""
    alone = own_data.rewrite(lambda case: replace(case, site="north"))
    command = ("polyp", "crossval", "--out", tmp_path / "one", "--data", alone, "--no-baselines", *settings)
    result = medformer(*command, "training.epochs=1", report=False)
    assert result.code == 0 and not (tmp_path / "one" / "site_probe.json").exists()


def test_sites_and_seeds_make_other_schemes_reachable(
    medformer: Medformer, own_data: Any, settings: tuple[str, ...], tmp_path: Path
) -> None:
    manifest = own_data.rewrite(lambda case: replace(case, site=f"site{int(case.id[1:4]) % 3}"))
    command = ("polyp", "crossval", "--data", manifest, "--no-baselines", *settings, "training.epochs=1")
    result = medformer(*command, "--out", tmp_path / "sites", "crossval.scheme=leave-one-site-out", report=False)
    assert result.code == 0, result.err
    rows = read_csv(tmp_path / "sites" / "oof.csv")
    assert len({(row["site"], row["fold"]) for row in rows}) == 3
    result = medformer(*command, "--out", tmp_path / "twice", "crossval.repeats=2", report=False)
    assert result.code == 0, result.err
    rows = read_csv(tmp_path / "twice" / "oof.csv")
    assert sorted(row["repeat"] for row in rows) == ["0"] * 16 + ["1"] * 16
    assert len({row["id"] for row in rows}) == 16


def test_status_says_where_every_fold_stands(medformer: Medformer, own_run: Path) -> None:
    shutil.rmtree(own_run / "folds" / "1")
    result = medformer("crossval", "status", own_run)
    assert result.code == 0, result.err
    assert "done" in result.out and "pending" in result.out


def test_an_edited_table_is_refused_by_hash(medformer: Medformer, own_run: Path) -> None:
    table = own_run / "oof.csv"
    table.write_text(table.read_text("utf-8").replace("0.", "0.9", 1), "utf-8")
    medformer("report", own_run).refused(3, "oof.csv was changed after the run wrote it", "--resume")
    medformer("compare", own_run, own_run).refused(3, "oof.csv was changed")


def test_a_table_that_is_gone_is_said_to_be_missing(medformer: Medformer, own_run: Path) -> None:
    (own_run / "curves.csv").unlink()
    medformer("report", own_run).refused(3, "curves.csv", "it is missing", "--resume")
