"""SIGKILL at random moments, then resume: the table must not tell the difference."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medformer.files import read_json

# A session for each line of the input, in a process of its own that has everything imported.
SCRIPT = """
import os, sys, time
from pathlib import Path
import sklearn.model_selection
from medformer.crossval.run.collect import collect
from medformer.crossval.run.execute import execute
from medformer.crossval.plan import PlanCase, read_plan, write_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import RunInfo, session
from medformer.crossval.plan.schemes import make_plan
from medformer.files import read_csv, write_csv

def job(fold, folder, resume):
    global left
    partial = folder / "partial.csv"
    rows = read_csv(partial) if resume and partial.exists() else []
    for name in fold.test[len(rows):]:
        # A session that is to be killed waits for it, however late that comes.
        time.sleep(0.01 if left else 600)
        left -= 1
        rows.append({"id": name, "value": len(rows) * 0.1})
        write_csv(partial, rows, ["id", "value"])
    write_csv(folder / "predictions.csv", rows, ["id", "value"])

def work(out):
    run = RunDirectory.create(out, resume=out.exists())
    info = RunInfo(task="t", command=sys.argv, config={"a": 1}, seed=0, device="cpu")
    with session(run, info):
        if not run.splits_json.exists():
            cases = [PlanCase(f"c{i}", f"g{i // 2}") for i in range(60)]
            write_plan(run.splits_json, make_plan(cases, folds=4, validation=0.2, seed=0))
        plan = read_plan(run.splits_json)
        print(os.getpid(), flush=True)
        execute(plan, job, run)
        collect(run, plan)

while line := sys.stdin.readline():
    folder, left = line.split()[0], int(line.split()[1])
    child = os.fork()
    if not child:
        work(Path(folder))
        # Without the end of the interpreter, which would tear down copies of all that was imported.
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is neither fork nor SIGKILL")
def test_five_kills_leave_the_same_table(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    draw = random.Random(0)
    command, pipe = [sys.executable, "-c", SCRIPT], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as sessions:
        assert sessions.stdin is not None and sessions.stdout is not None

        def begin(folder: Path, rows: int) -> int:
            print(folder, rows, file=sessions.stdin, flush=True)
            return int(sessions.stdout.readline())

        def end() -> int:
            return int(sessions.stdout.readline())

        begin(whole, -1)
        assert end() == 0
        for _ in range(5):
            child = begin(broken, 11)
            time.sleep(draw.uniform(0.0, 0.15))
            os.kill(child, signal.SIGKILL)
            assert end() == -signal.SIGKILL
        assert not (broken / "oof.csv").exists()
        begin(broken, -1)
        assert end() == 0
    assert (broken / "oof.csv").read_bytes() == (whole / "oof.csv").read_bytes()
    assert [entry["state"] for entry in read_json(broken / "run.json")["sessions"]] == ["running"] * 5 + ["done"]
