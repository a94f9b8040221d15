"""A cross-validation that was cut off anywhere and resumed is the one that was never cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.files import read_csv, read_json
from medformer.inference.frames.segment import Segmenter
from medformer.training.loop import Loop

Medformer = Callable[..., Any]
SCRIPT = Path(__file__).with_name("kill_and_resume.py")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")


def interrupt(*options: str) -> str:
    result = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "oof.csv is identical." in result.stdout
    return result.stdout


# The limit is for a session that hangs, not for one that other work slows down.
@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 5])
def test_kills_and_two_calmer_signals_at_random_moments_leave_an_identical_table(kills: int) -> None:
    signals = ["SIGTERM", *["SIGKILL"] * kills, "SIGINT"]
    printed = interrupt("--signals", *signals, "--kills", str(len(signals)), "--seed", "0")
    assert [printed.count(f". {name} ") for name in ("SIGKILL", "SIGTERM", "SIGINT")] == [kills, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(3))
def test_many_interruptions_at_files_leave_an_identical_table(seed: int) -> None:
    interrupt("--signals", "SIGKILL", "SIGTERM", "SIGINT", "--kills", "40", "--clock", "writes", "--seed", str(seed))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_training_ends_the_step_saves_and_says_how_to_go_on(
    medformer: Medformer,
    finished: Path,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    run, step = tmp_path / "run", Loop._step
    command = ("polyp", "crossval", "--out", run, "--data", data, *settings)
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_step", lambda self, batch: (os.kill(os.getpid(), number), step(self, batch))[1])
        stopped = medformer(*command)
    stopped.refused(130, number.name, "step 1 of", "state.safetensors", "--resume")
    record = read_json(run / "run.json")
    assert record["state"] == "interrupted" and number.name in record["reason"]
    assert read_json(run / "folds" / "0" / "fold.json")["state"] == "pending"
    assert not (run / ".lock").exists()

    resumed = medformer(*command, "--resume", report=False)
    assert resumed.code == 0, resumed.err
    assert "Resuming after step 1" in resumed.err
    assert (run / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()
    assert [session["state"] for session in read_json(run / "run.json")["sessions"]] == ["interrupted", "done"]


# Half of the sixteen images: the default inference.batch_size.
BATCH = 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_predicting_keeps_the_masks_so_far(
    medformer: Medformer,
    finished: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    out, seen, predict = tmp_path / "out", [], Segmenter.predict
    command = ("polyp", "predict", finished, data.parent / "images", "--out", out)

    def interrupted(self: Segmenter, images: list[Any], names: list[str]) -> list[Any]:
        seen.append(names)
        if len(seen) == 2:
            os.kill(os.getpid(), number)
        return predict(self, images, names)

    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "predict", interrupted)
        medformer(*command).refused(130, "Interrupted", "--resume")
    assert len(read_csv(out / "predictions.csv")) == len(list((out / "masks").iterdir())) == BATCH

    seen.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "predict", lambda self, *given: (seen.append(given[1]), predict(self, *given))[1])
        resumed = medformer(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert [len(names) for names in seen] == [BATCH]
    whole = tmp_path / "whole"
    assert medformer(*command[:-1], whole).code == 0
    for mask in (whole / "masks").iterdir():
        assert mask.read_bytes() == (out / "masks" / mask.name).read_bytes()


def test_a_finished_run_may_be_resumed_and_stays_as_it_is(
    medformer: Medformer, own_run: Path, finished: Path, data: Path, settings: tuple[str, ...]
) -> None:
    resumed = medformer("polyp", "crossval", "--out", own_run, "--data", data, "--resume", *settings, report=False)
    assert resumed.code == 0, resumed.err
    assert resumed.err.count("already done") == 2 * 3, "two folds of the model and of both baselines"
    for name in ("oof.csv", "metrics.json", "splits.json", "folds/0/model.safetensors"):
        assert (own_run / name).read_bytes() == (finished / name).read_bytes()


def test_a_fold_whose_predictions_were_lost_is_computed_again(
    medformer: Medformer, own_run: Path, finished: Path, data: Path, settings: tuple[str, ...]
) -> None:
    (own_run / "folds" / "1" / "predictions.csv").unlink()
    resumed = medformer("polyp", "crossval", "--out", own_run, "--data", data, "--resume", *settings, report=False)
    assert resumed.code == 0, resumed.err
    assert "Resuming after epoch 2" in resumed.err
    assert (own_run / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()


def test_a_fold_that_lost_what_it_learned_learns_it_again(
    medformer: Medformer, own_run: Path, finished: Path, data: Path, settings: tuple[str, ...]
) -> None:
    (own_run / "folds" / "0" / "threshold.json").unlink()
    command = ("polyp", "crossval", "--out", own_run, "--data", data, "--resume", *settings)
    resumed = medformer(*command, report=False)
    assert resumed.code == 0, resumed.err
    for name in ("folds/0/threshold.json", "oof.csv"):
        assert (own_run / name).read_bytes() == (finished / name).read_bytes()

    # Weights cannot be had again from the state of a training; the message says what to delete.
    weights = own_run / "folds" / "1" / "model.safetensors"
    weights.unlink()
    medformer(*command, report=False).refused(3, "model.safetensors", "delete the state")
    (weights.parent / "state.safetensors").unlink()
    assert medformer(*command, report=False).code == 0
    assert weights.read_bytes() == (finished / "folds" / "1" / "model.safetensors").read_bytes()


def test_half_written_files_of_a_kill_do_not_stay(
    medformer: Medformer, own_run: Path, data: Path, settings: tuple[str, ...]
) -> None:
    begun = ".medformer-tmp-7-0123456789abcdef"
    leftovers = [own_run / "masks" / f"{begun}-p000_f00.png", own_run / "folds" / "0" / f"{begun}-state.safetensors"]
    for leftover in leftovers:
        leftover.write_bytes(np.zeros(8).tobytes())
    resumed = medformer("polyp", "crossval", "--out", own_run, "--data", data, "--resume", *settings, report=False)
    assert resumed.code == 0, resumed.err
    assert not any(leftover.exists() for leftover in leftovers)


def test_changed_data_are_named_also_where_they_allow_no_plan(
    medformer: Medformer, own_run: Path, own_data: Any, settings: tuple[str, ...]
) -> None:
    manifest = own_data.rewrite(lambda case: case if case.group == "p000" else None)
    resumed = medformer("polyp", "crossval", "--out", own_run, "--data", manifest, "--resume", *settings)
    resumed.refused(3, "not the ones this plan was drawn for", "14 no longer there")
