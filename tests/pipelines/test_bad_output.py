"""Outputs that cannot be written or hold something, a full disk, and Ctrl-C: nothing finished is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medformer.files import read_csv, read_json
from medformer.inference.frames.segment import Segmenter
from medformer.tasks.polyp import predictor

Medformer = Callable[..., Any]

CASE = "p002_f01"


OUTPUTS = ["prepare", "check", "train", "crossval", "predict", "evaluate", "compare", "demo"]


@pytest.mark.parametrize("verb", OUTPUTS)
def test_an_output_that_cannot_be_written_is_a_resource_error(
    medformer: Medformer, finished: Path, data: Path, settings: tuple[str, ...], below_a_file: Path, verb: str
) -> None:
    masks = data.parent / "masks"
    command: dict[str, list[object]] = {
        "prepare": ["polyp", "prepare", data.parent, "--ungrouped", "each"],
        "check": ["polyp", "check", data],
        "train": ["polyp", "train", "--data", data, *settings],
        "crossval": ["polyp", "crossval", "--data", data, *settings],
        "predict": ["polyp", "predict", finished, data.parent / "images"],
        "evaluate": ["polyp", "evaluate", "--predictions", masks, "--masks", masks],
        "compare": ["compare", finished, finished],
        "demo": ["demo"],
    }
    medformer(*command[verb], "--out", below_a_file).refused(5, str(below_a_file), "every folder of the path")
    too_long = below_a_file.parents[2] / ("x" * 300)
    medformer(*command[verb], "--out", too_long).refused(5, "File name too long", "Choose another name")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="file names are looked up in /proc")
@pytest.mark.parametrize("file", ["state.safetensors", "predictions.csv", "fold.json"])
def test_a_full_disk_keeps_what_is_finished_and_resume_goes_on(
    medformer: Medformer,
    finished: Path,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
) -> None:
    run, full, sync = tmp_path / "run", [], os.fsync

    def fsync(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        full.extend([name] if "folds/1/.medformer-tmp-" in name and name.endswith(f"-{file}") else [])
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    command = ("polyp", "crossval", "--out", run, "--data", data, "--no-baselines", *settings)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        medformer(*command).refused(5, "No space left on device", f"folds/1/{file}", "Free some space")
    assert (run / "folds/0/predictions.csv").read_bytes() == (finished / "folds/0/predictions.csv").read_bytes()
    assert read_json(run / "folds/0/fold.json")["state"] == "done"
    assert not list(run.rglob(".*"))
    resumed = medformer(*command, "--resume", report=False)
    assert resumed.code == 0, resumed.err
    assert "Fold 0 (1 of 2): already done." in resumed.err
    assert (run / "oof.csv").read_bytes() == (finished / "oof.csv").read_bytes()


def test_a_full_disk_while_predicting_keeps_the_masks_so_far(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, replace_file = tmp_path / "out", os.replace

    def no_space(source: str, target: str) -> None:
        if Path(target).stem == "p001_f01":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    command = ("polyp", "predict", finished, data.parent / "images", "--out", out)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", no_space)
        medformer(*command).refused(5, "No space left on device", "p001_f01")
    assert [row["id"] for row in read_csv(out / "predictions.csv")] == ["p000_f00", "p000_f01", "p001_f00"]
    resumed = medformer(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert len(list((out / "masks").iterdir())) == 16


def test_a_folder_with_something_in_it_is_not_written_to(
    medformer: Medformer, own_run: Path, data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    before = contents(own_run)
    masks = data.parent / "masks"
    medformer("polyp", "crossval", "--out", own_run, "--data", data, *settings).refused(2, "--resume", "--overwrite")
    for flag in ("--overwrite", "--resume"):
        predicted = medformer("polyp", "predict", own_run, data.parent / "images", "--out", own_run, flag)
        predicted.refused(2, str(own_run), "folder of a run")
    scored = medformer("polyp", "evaluate", "--predictions", masks, "--masks", masks, "--out", own_run, "--overwrite")
    scored.refused(2, str(own_run), "folder of a run")
    assert contents(own_run) == before

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    commands: list[tuple[object, ...]] = [
        ("polyp", "crossval", "--data", data, *settings),
        ("polyp", "crossval", "--data", data, "--overwrite", *settings),
        ("polyp", "train", "--data", data, "--resume", *settings),
        ("polyp", "predict", own_run, data.parent / "images"),
        ("polyp", "evaluate", "--predictions", masks, "--masks", masks),
        ("demo",),
        ("demo", "--overwrite"),
    ]
    for command in commands:
        medformer(*command, "--out", foreign).refused(2, str(foreign))
    assert contents(foreign) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("verb", ["crossval", "predict", "evaluate"])
def test_ctrl_c_is_one_sentence(
    medformer: Medformer,
    finished: Path,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    masks = data.parent / "masks"
    monkeypatch.setattr(predictor, "case_row", pressed)
    monkeypatch.setattr("medformer.inference.scoring.case_row", pressed)
    monkeypatch.setattr(Segmenter, "predict", pressed)
    commands = {
        "crossval": ("--data", data, *settings),
        "predict": (finished, data.parent / "images"),
        "evaluate": ("--predictions", masks, "--masks", masks, "--ungrouped", "each"),
    }
    result = medformer("polyp", verb, *commands[verb], "--out", tmp_path / "out")
    # The other two had finished nothing, and leave no folder that could be continued.
    result.refused(130, "Interrupted", "--resume" if verb == "crossval" else "before the command had finished")
    assert (tmp_path / "out").exists() == (verb == "crossval")
    if verb == "crossval":
        assert read_json(tmp_path / "out/run.json")["state"] == "interrupted"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
