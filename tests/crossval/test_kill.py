"""SIGKILL at random moments, then resume: the table must not tell the difference."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medformer.files import read_json

SCRIPT = """
import sys, time
from pathlib import Path
from medformer.crossval.run.collect import collect
from medformer.crossval.run.execute import execute
from medformer.crossval.plan import PlanCase, read_plan, write_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import RunInfo, session
from medformer.crossval.plan.schemes import make_plan
from medformer.files import read_csv, write_csv

out, left = Path(sys.argv[1]), int(sys.argv[2])

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

run = RunDirectory.create(out, resume=out.exists())
info = RunInfo(task="t", command=sys.argv, config={"a": 1}, seed=0, device="cpu")
with session(run, info):
    if not run.splits_json.exists():
        cases = [PlanCase(f"c{i}", f"g{i // 2}") for i in range(60)]
        write_plan(run.splits_json, make_plan(cases, folds=4, validation=0.2, seed=0))
    plan = read_plan(run.splits_json)
    print("ready", flush=True)
    execute(plan, job, run)
    collect(run, plan)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_five_kills_leave_the_same_table(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([sys.executable, "-c", SCRIPT, str(whole), "-1"], check=True, stdout=subprocess.DEVNULL)
    draw = random.Random(0)
    for _ in range(5):
        command = [sys.executable, "-c", SCRIPT, str(broken), "11"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0.0, 0.15))
            child.kill()
    assert not (broken / "oof.csv").exists()
    subprocess.run([sys.executable, "-c", SCRIPT, str(broken), "-1"], check=True, stdout=subprocess.DEVNULL)
    assert (broken / "oof.csv").read_bytes() == (whole / "oof.csv").read_bytes()
    assert [entry["state"] for entry in read_json(broken / "run.json")["sessions"]] == ["running"] * 5 + ["done"]
