"""`--hours` at the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medformer.files import read_json

Medformer = Callable[..., Any]


def test_a_run_that_fits_is_the_same_run_and_goes_on(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    command = ("polyp", "crossval", "--out", out, "--data", data, "--no-baselines", *settings)
    result = medformer(*command, "--hours", "2", report=False)
    assert result.code == 0, result.err
    assert (out / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()
    assert any("nothing is given up" in note for note in read_json(out / "run.json")["notes"])
    assert medformer(*command, "--hours", "2", "--resume", report=False).code == 0
    medformer(*command, "--hours", "3", "--resume").refused(2, "training.hours: 2.0 before, 3.0 now")


def test_hours_that_make_no_sense_are_refused(medformer: Medformer, data: Path, tmp_path: Path) -> None:
    command = ("polyp", "train", "--out", tmp_path / "run", "--data", data, "--config", "polyp/quick")
    medformer(*command, "--hours", "0").refused(2, "training.hours", "greater than 0")
    medformer(*command, "--hours", "1", "training.minutes=3").refused(2, "--hours", "training.minutes")
    medformer(*command, "--hours", "1e-7").refused(2, "not enough", "Give at least")
    assert not (tmp_path / "run").exists()
