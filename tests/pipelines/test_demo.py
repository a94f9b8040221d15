"""The demo needs nothing but a folder, ends with a report, and can be cut off and continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.files import read_csv, read_json
from medformer.training.loop import Loop
from pipelines import demo

Medformer = Callable[..., Any]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]) -> None:
    """The same demo on fewer and smaller frames, scans and volumes, with a smaller network for polyps."""

    def load(name: str, overrides: Sequence[str], model: type[Any] = PolypConfig) -> Any:
        common = ["training.epochs=1", "crossval.folds=2", "crossval.baselines=false"]
        smaller = {
            "polyp/demo": settings[2:],
            "volume/demo": [*common, "plan.patch=[16, 16, 16]", "plan.batch_size=2", "data.patches=1"],
            "abide/demo": [*common, "pretraining.epochs=1"],
        }[name]
        return load_config(name, [*overrides, *smaller], model=model)

    def write(folder: Path) -> Path:
        return write_synthetic_colonoscopy(folder, groups=6, frames_per_group=1, size=(48, 64))

    def scan(folder: Path) -> Path:
        return write_synthetic_volumes(folder, cases=8, spacing=12.0)

    monkeypatch.setattr(demo, "load_config", load)
    monkeypatch.setattr(demo, "write_synthetic_volumes", scan)
    monkeypatch.setattr(demo, "write_synthetic_colonoscopy", write)
    monkeypatch.setattr(demo, "_ATLASES", {"coarse": 12, "fine": 16})
    monkeypatch.setattr(demo, "_SUBJECTS", 32)


def test_the_demo_ends_with_the_path_of_a_report_that_says_what_it_shows(medformer: Medformer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = medformer("demo", "--out", out)
    assert result.code == 0, result.err
    report = out / "run" / "report.html"
    assert f"Report: {report}" in result.out.splitlines()[-3:]
    assert "synthetic" in report.read_text("utf-8")
    assert "synthetic" in (out / "run" / "model_card.md").read_text("utf-8")
    connectomes = (out / "abide" / "run" / "report.html").read_text("utf-8")
    assert "synthetic" in connectomes and "What the scores rest on" in connectomes
    assert len(read_csv(out / "run" / "oof.csv")) == len(list((out / "run" / "masks").iterdir())) == 6
    medformer("demo", "--out", out).refused(2, str(out), "--resume", "--overwrite")
    again = medformer("demo", "--out", out, "--overwrite", report=False)
    assert again.code == 0, again.err
    assert [session["state"] for session in read_json(out / "run" / "run.json")["sessions"]] == ["done"]


def test_an_interrupted_demo_goes_on(medformer: Medformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_end_epoch", pressed)
        medformer("demo", "--out", out).refused(130, "Interrupted", "--resume")
    resumed = medformer("demo", "--out", out, "--resume", report=False)
    assert resumed.code == 0, resumed.err
    cut_off = out / "abide" / "run" / "run.json"
    assert [session["state"] for session in read_json(cut_off)["sessions"]] == ["interrupted", "done"]
    assert read_json(out / "run" / "run.json")["state"] == "done"
