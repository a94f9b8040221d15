"""The demo needs nothing but a folder, ends with a report, and can be cut off and continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_walls import small_walls

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
            "volume/demo": [
                *common,
                "model.backbone=tiny",
                "plan.patch=[16, 16, 16]",
                "plan.batch_size=2",
                "data.patches=1",
            ],
            "abide/demo": [*common, "model.width=8", "pretraining.epochs=1"],
        }[name]
        return load_config(name, [*overrides, *smaller], model=model)

    def write(folder: Path) -> Path:
        with small_walls():
            return write_synthetic_colonoscopy(folder, groups=6, frames_per_group=1, size=(48, 64))

    def scan(folder: Path) -> Path:
        return write_synthetic_volumes(folder, cases=8, spacing=12.0)

    monkeypatch.setattr(demo, "load_config", load)
    monkeypatch.setattr("medformer.data.synthetic.brain_volumes.write_synthetic_volumes", scan)
    monkeypatch.setattr("medformer.data.synthetic.colonoscopy.write_synthetic_colonoscopy", write)
    monkeypatch.setattr(demo, "_ATLASES", {"coarse": 12, "fine": 16})
    monkeypatch.setattr(demo, "_SUBJECTS", 32)


def test_an_interrupted_demo_goes_on_and_ends_with_the_path_of_a_report_that_says_what_it_shows(
    medformer: Medformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def interrupted(*flags: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "_end_epoch", pressed)
            medformer("demo", "--out", out, *flags).refused(130, "Interrupted", "--resume")

    interrupted()
    result = medformer("demo", "--out", out, "--resume")
    assert result.code == 0, result.err
    assert states(out / "abide" / "run") == ["interrupted", "done"]
    assert states(out / "volume" / "run") == states(out / "run") == ["done"]
    report = out / "run" / "report.html"
    assert f"Report: {report}" in result.out.splitlines()[-3:]
    assert "synthetic" in report.read_text("utf-8")
    assert "synthetic" in (out / "run" / "model_card.md").read_text("utf-8")
    connectomes = (out / "abide" / "run" / "report.html").read_text("utf-8")
    assert "synthetic" in connectomes and "What the scores rest on" in connectomes
    assert len(read_csv(out / "run" / "oof.csv")) == len(list((out / "run" / "masks").iterdir())) == 6

    medformer("demo", "--out", out).refused(2, str(out), "--resume", "--overwrite")
    interrupted("--overwrite")
    assert states(out / "abide" / "run") == ["interrupted"], "it was not begun anew"


def pressed(*_: object) -> None:
    raise KeyboardInterrupt


def states(run: Path) -> list[str]:
    """How each session of a run ended."""
    return [session["state"] for session in read_json(run / "run.json")["sessions"]]
