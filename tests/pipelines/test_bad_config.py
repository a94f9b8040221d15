"""Typos in configs, and resuming with what is not the same run, are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Medformer = Callable[..., Any]

CASE = "p002_f01"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training:\n  epoch: 3\n", ["mine.yaml", "training.epoch", "'training.epochs'"]),
        ("trainin:\n  epochs: 3\n", ["mine.yaml", "trainin", "'training'"]),
        ("training:\n  epochs: many\n", ["mine.yaml", "training.epochs"]),
        ("training: {epochs: 3\n", ["mine.yaml"]),
        ("extends: polyp/quik\n", ["mine.yaml", "'polyp/quick'"]),
        ("model:\n  backbone: !!python/object/apply:os.system ['touch executed']\n", ["mine.yaml"]),
    ],
)
def test_a_typo_in_a_config_file_is_named(
    medformer: Medformer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text, "utf-8")
    medformer("polyp", "crossval", "--config", "mine.yaml", "--data", data, "--out", "run").refused(2, *words)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epoch=3", ["training.epoch=3", "'training.epochs'"]),
        ("training.epochs=0", ["training.epochs", "0"]),
        ("epochs=3", ["epochs"]),
        ("model.name=meta_polpy", ["'meta_polyp'"]),
        ("model.name=smp:unet/resnet43", ["'resnet34'"]),
        ("loss.name=dise", ["'dice'"]),
        ("crossval.folds=99", ["99 folds", "8 group"]),
        ("data.image_size=32", ["data.image_size"]),
    ],
)
def test_a_typo_in_an_override_is_named(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path: Path, override: str, words: list[str]
) -> None:
    run = tmp_path / "run"
    code = 3 if override.startswith("crossval.folds") else 2
    medformer("polyp", "crossval", "--data", data, "--out", run, *settings, override).refused(code, *words)
    assert not (run / "folds").exists()


def test_resuming_with_another_config_names_the_key(
    medformer: Medformer, own_run: Path, data: Path, settings: tuple[str, ...]
) -> None:
    before = [(own_run / name).read_bytes() for name in ("run.json", "config.yaml")]
    command = ("polyp", "crossval", "--out", own_run, "--data", data, "--resume", *settings)
    medformer(*command, "training.lr=0.5").refused(2, "training.lr", "0.001 before, 0.5 now", "another folder")
    assert [(own_run / name).read_bytes() for name in ("run.json", "config.yaml")] == before


@pytest.mark.parametrize("what", ["gone", "changed", "added"])
def test_resuming_with_other_data_names_the_case(
    medformer: Medformer, own_run: Path, own_data: Any, settings: tuple[str, ...], what: str
) -> None:
    name = CASE
    if what == "gone":
        own_data.rewrite(lambda case: None if case.id == CASE else case)
    elif what == "changed":
        Image.new("RGB", (64, 48), (180, 60, 50)).save(own_data.case(CASE).image)
        own_data.refresh()
    else:
        name = "new"
        lines = own_data.manifest.read_text("utf-8").splitlines()
        own_data.manifest.write_text("\n".join([*lines, lines[-1].replace("p007_f01,", "new,", 1)]), "utf-8")
    before = (own_run / "oof.csv").read_bytes()
    command = ("polyp", "crossval", "--out", own_run, "--data", own_data.manifest, "--resume", *settings)
    medformer(*command).refused(3, name, "another folder")
    assert (own_run / "oof.csv").read_bytes() == before


def test_resuming_after_a_picture_vanished_names_it(
    medformer: Medformer, own_run: Path, own_data: Any, settings: tuple[str, ...]
) -> None:
    own_data.case(CASE).image.unlink()
    command = ("polyp", "crossval", "--out", own_run, "--data", own_data.manifest, "--resume", *settings)
    medformer(*command).refused(3, CASE, "missing-image")


@pytest.mark.parametrize("verb", ["predict", "report", "compare"])
def test_what_is_no_run_is_refused(medformer: Medformer, data: Path, tmp_path: Path, verb: str) -> None:
    folder = data.parent
    command = {
        "predict": ("polyp", "predict", folder, folder / "images", "--out", tmp_path / "out"),
        "report": ("report", folder),
        "compare": ("compare", folder, folder),
    }[verb]
    medformer(*command).refused(2, str(folder), "not a run folder")
