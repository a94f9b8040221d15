"""What `medformer crossval status RUN` sees in a run's files at any moment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medformer.crossval.plan import Fold, Plan, write_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import FoldJob, execute
from medformer.crossval.run.journal import FoldState, read_state, write_state
from medformer.crossval.run.record import RunInfo, finish, start
from medformer.crossval.run.status import STOPPED, Status, format_status, read_status
from medformer.errors import ConfigError, DataError
from medformer.files import write_csv, write_text


@pytest.fixture
def started(run: RunDirectory, info: RunInfo, plan: Plan) -> RunDirectory:
    start(run, info)
    write_plan(run.splits_json, plan)
    return run


def states(status: Status, part: int = 0) -> list[str]:
    return [fold.state for fold in status.parts[part].folds]


def begin(run: RunDirectory, plan: Plan, index: int, **changes: Any) -> FoldState:
    state = read_state(run.fold(index), index, plan.digest()).begin()
    write_state(run.fold(index), FoldState(**{**vars(state), **changes}))
    return state


def write_epochs(run: RunDirectory, index: int, *dice: object) -> None:
    rows = [{"epoch": number, "validation_dice": value} for number, value in enumerate(dice, 1)]
    write_csv(run.fold(index) / "history.csv", rows, ["epoch", "validation_dice"])


def test_a_run_is_followed_while_it_runs(started: RunDirectory, plan: Plan, job: FoldJob) -> None:
    seen: list[Status] = []

    def watched(fold: Fold, folder: Path, resume: bool) -> None:
        write_epochs(started, fold.index, 0.25, 0.5)
        seen.append(read_status(started.path))
        if fold.index == 1:
            raise DataError("case x is corrupt")
        job(fold, folder, resume)

    with pytest.raises(DataError):
        execute(plan, watched, started)
    seen.append(read_status(started.path))
    assert [states(status) for status in seen] == [
        ["running", "pending", "pending"],
        ["done", "running", "pending"],
        ["done", "failed", "running"],
        ["done", "failed", "done"],
    ]
    assert seen[0].live and (seen[0].state, seen[0].task) == ("running", "polyp")
    running, failed = seen[0].parts[0].folds[0], seen[3].parts[0].folds[1]
    assert (running.epoch, running.validation, running.attempts) == (2, 0.5, 1)
    assert failed.reason == "case x is corrupt"
    text = format_status(seen[2])
    assert "Held by process" in text and "last sign of life" in text
    assert "Model: 1 of 3 folds done" in text
    assert "    1  failed, after epoch 2 with validation Dice 0.5000: case x is corrupt" in text.splitlines()
    finish(started, "failed", "1 of 3 folds failed")
    assert f"{started.path}: polyp, failed: 1 of 3 folds failed" in format_status(read_status(started.path))


def test_times_and_attempts_are_said(started: RunDirectory, plan: Plan) -> None:
    begin(started, plan, 0)
    begin(started, plan, 0)
    later = datetime.now(UTC) + timedelta(minutes=7, seconds=20)
    (line,) = (line for line in format_status(read_status(started.path), later).splitlines() if "running for" in line)
    assert re.search(r"running for 7 min 2\d s, process \d+ on .*, attempt 2$", line)


def test_a_killed_run_is_said_to_be_stopped(tmp_path: Path, info: RunInfo, plan: Plan) -> None:
    out = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path; from medformer.crossval.run.directory import RunDirectory\n"
        "RunDirectory.create(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        run = RunDirectory(out)
        empty = read_status(out)
        assert (empty.state, empty.live, empty.parts[0].folds) == ("starting", True, ())
        assert "The plan is not drawn yet." in format_status(empty)
        start(run, info)
        write_plan(run.splits_json, plan)
        begin(run, plan, 0)
        assert states(read_status(out)) == ["running", "pending", "pending"]
        other.kill()
    status = read_status(out)
    assert (status.state, status.reason) == ("stopped", STOPPED)
    assert states(status) == ["stopped", "pending", "pending"]
    assert f"stopped: {STOPPED}" in format_status(status)


def test_a_fold_of_an_earlier_session_waits_for_its_turn(started: RunDirectory, plan: Plan) -> None:
    begin(started, plan, 2, started="2020-01-01T00:00:00+00:00")
    begin(started, plan, 1)
    assert states(read_status(started.path)) == ["pending", "running", "stopped"]
    assert "this session will continue it" in format_status(read_status(started.path))


def test_baselines_and_the_canary_stand_below(started: RunDirectory, plan: Plan, job: FoldJob) -> None:
    execute(plan, job, started.baseline("average mask"))
    begin(started.canary, plan, 0)
    status = read_status(started.path)
    assert [part.name for part in status.parts] == ["", "baseline average mask", "permuted labels"]
    assert states(status, 1) == ["done"] * 3
    assert states(status, 2) == ["running", "pending", "pending"]
    assert "Baseline average mask: 3 of 3 folds done" in format_status(status)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "odd"}', "null"])
def test_a_damaged_journal_is_said_and_hides_nothing_else(started: RunDirectory, plan: Plan, text: str) -> None:
    begin(started, plan, 0)
    write_text(started.fold(1) / "fold.json", text)
    write_text(started.fold(0) / "history.csv", "epoch,validation_dice\n")
    assert states(read_status(started.path)) == ["running", "unreadable", "pending"]


def test_reading_disturbs_nothing_and_is_not_disturbed(started: RunDirectory, plan: Plan) -> None:
    stop = threading.Event()

    def rewrite() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            write_epochs(started, 0, *[0.1] * (count % 5 + 1))
            begin(started, plan, 0)

    writer = threading.Thread(target=rewrite)
    begin(started, plan, 0)
    write_epochs(started, 0, 0.1)
    writer.start()
    try:
        for _ in range(50):
            (fold, *_) = read_status(started.path).parts[0].folds
            assert fold.state == "running" and fold.epoch in range(1, 6)
    finally:
        stop.set()
        writer.join()
    before = {file: file.read_bytes() for file in started.path.rglob("*") if file.is_file()}
    format_status(read_status(started.path))
    assert {file: file.read_bytes() for file in started.path.rglob("*") if file.is_file()} == before


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        read_status(tmp_path / "typo")
    write_text(tmp_path / "run.json", json.dumps({"scripts": 1}))
    with pytest.raises(ConfigError, match="not a run folder"):
        read_status(tmp_path)
