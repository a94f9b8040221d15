from __future__ import annotations

import csv
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medformer.crossval.plan import Fold, Plan
from medformer.crossval.run.collect import collect, read_oof, write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import WorkerLostError, execute
from medformer.crossval.run.journal import read_state
from medformer.errors import DataError, DivergenceError, InterruptedRun, MedformerError, ResourceError
from medformer.files import read_json, write_csv, write_text

Job = Callable[[Fold, Path, bool], None]


class Recorder:
    """A job that remembers its calls and fails once where told to."""

    def __init__(self, job: Job, failures: dict[int, BaseException] | None = None) -> None:
        self.job = job
        self.failures = failures or {}
        self.calls: list[tuple[int, bool]] = []

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        self.calls.append((fold.index, resume))
        if fold.index in self.failures:
            raise self.failures.pop(fold.index)
        self.job(fold, folder, resume)


def states(run: RunDirectory, plan: Plan) -> list[str]:
    return [read_state(run.fold(fold.index), fold.index, plan.digest()).state for fold in plan.folds]


def test_folds_run_once(run: RunDirectory, plan: Plan, job: Job) -> None:
    recorder = Recorder(job)
    execute(plan, recorder, run)
    execute(plan, recorder, run)
    assert recorder.calls == [(0, False), (1, False), (2, False)]
    assert states(run, plan) == ["done"] * 3


def test_a_failed_fold_does_not_lose_the_others(run: RunDirectory, plan: Plan, job: Job) -> None:
    recorder = Recorder(job, {1: DivergenceError("loss is NaN at cases a, b")})
    with pytest.raises(DataError, match=r"1 of 3 folds failed; the other 2 .*Fold 1: loss is NaN at cases a, b"):
        execute(plan, recorder, run)
    assert states(run, plan) == ["done", "failed", "done"]
    with pytest.raises(DataError, match="Fold 1 is failed"):
        collect(run, plan)
    execute(plan, recorder, run)
    assert recorder.calls == [(0, False), (1, False), (2, False), (1, True)]
    assert states(run, plan) == ["done"] * 3


def test_a_bug_in_a_job_keeps_its_traceback(run: RunDirectory, plan: Plan, job: Job) -> None:
    with pytest.raises(MedformerError, match="Fold 0: ZeroDivisionError: oops") as caught:
        execute(plan, Recorder(job, {0: ZeroDivisionError("oops")}), run)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "test_execute.py" in (run.fold(0) / "error.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (InterruptedRun("Ctrl-C"), "pending"),
        (KeyboardInterrupt(), "pending"),
        (ResourceError("No space left on device"), "failed"),
    ],
)
def test_what_would_fail_every_fold_stops_at_once(
    run: RunDirectory, plan: Plan, job: Job, error: BaseException, state: str
) -> None:
    recorder = Recorder(job, {1: error})
    with pytest.raises(type(error)):
        execute(plan, recorder, run)
    assert [index for index, _ in recorder.calls] == [0, 1]
    assert states(run, plan) == ["done", state, "pending"]
    execute(plan, recorder, run)
    assert recorder.calls[2:] == [(1, True), (2, False)]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_lack_inside_a_fold_is_one_of_resources_and_resume_goes_on(
    run: RunDirectory, plan: Plan, job: Job, error: Exception
) -> None:
    recorder = Recorder(job, {1: error})
    with pytest.raises(ResourceError):
        execute(plan, recorder, run)
    assert states(run, plan) == ["done", "failed", "pending"]
    execute(plan, recorder, run)
    assert states(run, plan) == ["done"] * 3


@pytest.mark.parametrize(
    ("second", "code"),
    [(DataError("a bad case"), 5), (WorkerLostError("killed"), 5), (ZeroDivisionError("a defect"), 1)],
)
def test_several_failed_folds_end_with_the_code_of_the_worst(
    run: RunDirectory, plan: Plan, job: Job, second: Exception, code: int
) -> None:
    with pytest.raises(MedformerError) as caught:
        execute(plan, Recorder(job, {0: WorkerLostError("killed"), 1: second}), run)
    assert caught.value.exit_code == code


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def test_a_killed_run_resumes_to_the_same_table(
    tmp_path: Path, plan: Plan, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunDirectory.create(tmp_path / "whole")
    execute(plan, job, whole)
    broken = RunDirectory.create(tmp_path / "broken")
    with pytest.raises(Killed):
        execute(plan, Recorder(job, {2: Killed()}), broken)
    assert states(broken, plan) == ["done", "done", "running"]
    recorder = Recorder(job)
    execute(plan, recorder, broken)
    assert recorder.calls == [(2, True)]
    assert collect(whole, plan).read_bytes() == collect(broken, plan).read_bytes()


@pytest.mark.parametrize("damage", ["row", "missing", "cell"])
def test_a_done_fold_with_damaged_predictions_runs_again(run: RunDirectory, plan: Plan, job: Job, damage: str) -> None:
    execute(plan, job, run)
    path = run.fold(1) / "predictions.csv"
    lines = path.read_text("utf-8").splitlines()
    if damage == "missing":
        path.unlink()
    elif damage == "row":
        write_text(path, "\n".join(lines[:-1]) + "\n")
    else:
        write_text(path, "\n".join([*lines[:-1], lines[-1].replace(",a,", ",b,")]) + "\n")
    with pytest.raises(DataError, match="Fold 1 is done or its predictions changed"):
        collect(run, plan)
    recorder = Recorder(job)
    execute(plan, recorder, run)
    assert recorder.calls == [(1, True)]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ids: ids[:-1], "1 missing"),
        (lambda ids: [*ids, ids[0]], "1 repeated"),
        (lambda ids: [*ids, "stranger"], r"1 not in the test part \(stranger\)"),
        (lambda ids: [], "missing"),
    ],
)
def test_a_job_that_leaves_the_wrong_ids_fails(
    run: RunDirectory, plan: Plan, edit: Callable[[list[str]], list[str]], message: str
) -> None:
    def wrong(fold: Fold, folder: Path, resume: bool) -> None:
        write_csv(folder / "predictions.csv", [{"id": name} for name in edit(list(fold.test))], ["id"])

    with pytest.raises(DataError, match=message):
        execute(plan, wrong, run)
    assert states(run, plan) == ["failed"] * 3


def test_a_fold_without_test_cases_needs_no_predictions(run: RunDirectory, plan: Plan) -> None:
    fold = Fold(0, plan.folds[0].train, plan.folds[0].validation, ())
    trained = Plan("predefined", 0, plan.cases, (fold,))
    calls = []
    execute(trained, lambda fold, folder, resume: calls.append(fold.index), run)
    execute(trained, lambda fold, folder, resume: calls.append(fold.index), run)
    assert calls == [0]
    with pytest.raises(DataError, match="no test cases"):
        collect(run, trained)


def test_folds_of_another_plan_are_refused(run: RunDirectory, plan: Plan, job: Job) -> None:
    execute(plan, job, run)
    other = Plan(plan.scheme, plan.seed + 1, plan.cases, plan.folds)
    with pytest.raises(DataError, match=f"expected fold 0 of plan {other.digest()[:12]}"):
        execute(other, job, run)


def test_table_is_in_manifest_order_with_known_columns_first(run: RunDirectory, plan: Plan, job: Job) -> None:
    execute(plan, job, run)
    with open(collect(run, plan), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "fold", "repeat", "group", "site", "dice"]
    assert [row["id"] for row in rows] == [case.id for case in plan.cases]
    assert [row["group"] for row in rows] == [case.group for case in plan.cases]
    for row in rows:
        assert row["id"] in plan.folds[int(row["fold"])].test


def test_repeats_stand_below_each_other(run: RunDirectory, plan: Plan, job: Job) -> None:
    again = [Fold(fold.index + 3, fold.train, fold.validation, fold.test, repeat=1) for fold in plan.folds]
    repeated = Plan("repeated", plan.seed, plan.cases, (*plan.folds, *again))
    execute(repeated, job, run)
    rows = read_oof(collect(run, repeated))
    assert [row["id"] for row in rows] == [case.id for case in plan.cases] * 2
    assert [row["repeat"] for row in rows] == [0] * len(plan.cases) + [1] * len(plan.cases)


def test_folds_with_different_columns_are_refused(run: RunDirectory, plan: Plan) -> None:
    def uneven(fold: Fold, folder: Path, resume: bool) -> None:
        extra = f"extra{fold.index}"
        write_csv(folder / "predictions.csv", [{"id": name, extra: 1} for name in fold.test], ["id", extra])

    execute(plan, uneven, run)
    with pytest.raises(DataError, match="columns id, extra1; the folds before it have id, extra0"):
        collect(run, plan)


def test_metrics_are_the_same_bytes_from_the_same_table(run: RunDirectory, plan: Plan, job: Job) -> None:
    def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"n": len(rows), "dice": sum(row["dice"] for row in rows) / len(rows), "none": float("nan")}

    execute(plan, job, run)
    collect(run, plan)
    first = write_metrics(run, summarize).read_bytes()
    assert write_metrics(run, summarize).read_bytes() == first
    content = read_json(run.metrics_json)
    assert content["n"] == len(plan.cases)
    assert content["none"] is None
    text = run.oof_csv.read_text("utf-8")
    write_text(run.oof_csv, text.replace(",a,", ",b,", 1))
    write_metrics(run, summarize)
    assert read_json(run.metrics_json)["source"] != content["source"]


def test_numbers_are_read_as_numbers_and_ids_as_text(tmp_path: Path) -> None:
    path = tmp_path / "oof.csv"
    rows = [
        {"id": "007", "site": "1", "area": 12, "dice": 0.1 + 0.2, "hd": "", "note": "x"},
        {"id": "1e3", "site": "2", "area": 0, "dice": 1.0, "hd": 2.5, "note": "3"},
    ]
    write_csv(path, rows, list(rows[0]))
    first, second = read_oof(path)
    assert (first["id"], second["id"], first["site"], second["note"]) == ("007", "1e3", "1", "3")
    assert first["area"] == 12
    assert isinstance(first["area"], int)
    assert first["dice"] == 0.1 + 0.2
    assert first["hd"] != first["hd"]


@pytest.mark.parametrize("text", ["", "id,dice\n", "id,dice\na,1,2\n", "id,dice\na\n"])
def test_broken_tables_are_refused(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "oof.csv", text)
    with pytest.raises(DataError, match=r"oof\.csv"):
        read_oof(tmp_path / "oof.csv")
    with pytest.raises(DataError, match=r"nothing\.csv"):
        read_oof(tmp_path / "nothing.csv")
