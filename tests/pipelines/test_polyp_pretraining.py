"""Masked pretraining on frames: in each fold, before a run, and refused where a tested frame was seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medformer.crossval.plan import read_plan
from medformer.data.cases import Case
from medformer.data.manifest import read_manifest, write_manifest
from medformer.files import read_json
from medformer.tensor_file import write_tensors

Medformer = Callable[..., Any]

SETTINGS = (
    "--config",
    "polyp/quick",
    "data.image_size=[32, 32]",
    "model.name=meta_polyp",
    "model.backbone=tiny",
    "training.epochs=1",
    "training.batch_size=4",
    "crossval.folds=2",
    "crossval.baselines=false",
    "pretraining.epochs=1",
    "pretraining.block=8",
)
RUN = ("polyp", "crossval", *SETTINGS)


@pytest.fixture(scope="module")
def frames(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the data set with three manifests: all, the frames to pretrain on, and those to test."""
    folder = tmp_path_factory.mktemp("frames") / "data"
    shutil.copytree(data.parent, folder)
    cases = read_manifest(folder / data.name).cases
    write_manifest(folder / "all.csv", cases)
    # Pretraining reads no masks, so these frames have none.
    write_manifest(folder / "unlabeled.csv", [replace(case, mask=None) for case in cases if case.group < "p004"])
    write_manifest(folder / "tested.csv", [case for case in cases if case.group >= "p004"])
    return folder


@pytest.fixture(scope="module")
def encoder(frames: Path, tmp_path_factory: pytest.TempPathFactory, medformer: Medformer) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "encoder"
    result = medformer("polyp", "pretrain", "--data", frames / "unlabeled.csv", "--out", out, *SETTINGS)
    assert result.code == 0, result.err
    held_out = read_json(out / "pretraining.json")["frames"]
    assert f"Hidden parts of {held_out} held-out cases" in result.out
    assert f"pretraining.weights={out}" in result.out
    return out


def first_weights(medformer: Medformer, monkeypatch: pytest.MonkeyPatch, *command: object) -> dict[str, torch.Tensor]:
    """The encoder that a run starts its first training from; the run is stopped there."""
    found: dict[str, torch.Tensor] = {}

    def stop(model: nn.Module, *_: object, **__: object) -> None:
        found.update({name: value.clone() for name, value in model.get_submodule("backbone").state_dict().items()})
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medformer.tasks.polyp.learner.fit", stop)
        result = medformer(*command)
    assert result.code == 130, result.err
    return found


def pretrained_encoder(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    return {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}


def test_each_fold_pretrains_on_its_own_training_frames(
    medformer: Medformer, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    from medformer.data.frames.dataset import SegmentationDataset

    class Spied(SegmentationDataset):
        def __init__(self, cases: Sequence[Case], *arguments: Any, **settings: Any) -> None:
            if not settings["masks"]:
                seen.append([case.id for case in cases])
            super().__init__(cases, *arguments, **settings)

    monkeypatch.setattr("medformer.tasks.polyp.learner.SegmentationDataset", Spied)
    run = tmp_path / "run"
    result = medformer(*RUN, "--data", frames / "tested.csv", "--out", run, "pretraining.enabled=true")
    assert result.code == 0, result.err
    plan = read_plan(run / "splits.json")
    for fold in plan.folds:
        folder = run / "folds" / str(fold.index)
        quality = read_json(folder / "pretraining.json")
        assert quality["frames"] == len(fold.validation) and quality["masked_mse"] > 0
        assert (folder / "pretraining" / "model.safetensors").is_file()
        assert list(fold.train) in seen and list(fold.validation) in seen
    assert len(seen) == 2 * len(plan.folds)
    assert "Masked pretraining" in (run / "report.html").read_text("utf-8")


def test_declared_unlabeled_frames_are_seen_too(medformer: Medformer, frames: Path, tmp_path: Path) -> None:
    common = (*RUN, "--data", frames / "tested.csv", "pretraining.enabled=true")
    leaking = medformer(*common, "--out", tmp_path / "a", f"pretraining.extra={frames / 'all.csv'}")
    leaking.refused(4, "seen by pretraining on all.csv", "seen-data:p004_f00|p004_f00", "Start from a network")
    result = medformer(*common, "--out", tmp_path / "b", f"pretraining.extra={frames / 'unlabeled.csv'}", report=False)
    assert result.code == 0, result.err


def test_training_starts_from_the_encoder_of_an_earlier_pretraining(
    medformer: Medformer, frames: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (*RUN, "--data", frames / "tested.csv")
    weights = first_weights(medformer, monkeypatch, *common, "--out", tmp_path / "a", f"pretraining.weights={encoder}")
    expected = pretrained_encoder(encoder)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    drawn = first_weights(medformer, monkeypatch, *common, "--out", tmp_path / "b")
    assert not all(torch.equal(drawn[name], expected[name]) for name in expected)
    result = medformer(*common, "--out", tmp_path / "a", f"pretraining.weights={encoder}", "--resume", report=False)
    assert result.code == 0, result.err


def test_a_tested_frame_that_pretraining_saw_is_refused_by_id_group_or_content(
    medformer: Medformer, frames: Path, encoder: Path, tmp_path: Path
) -> None:
    command = (*RUN, f"pretraining.weights={encoder}")
    tested = read_manifest(frames / "tested.csv").cases
    known = read_manifest(frames / "all.csv").by_id["p000_f00"]
    for number, (change, word) in enumerate(
        [
            (lambda case: replace(case, id=known.id), "id"),
            (lambda case: replace(case, group="p000"), "group"),
            (lambda case: replace(known, id="other", group="other"), "data"),
        ]
    ):
        manifest = frames / f"leaking_{word}.csv"
        write_manifest(manifest, [change(tested[0]), *tested[1:]])
        run = tmp_path / str(number)
        refused = medformer(*command, "--data", manifest, "--out", run)
        refused.refused(4, "seen by pretraining in encoder", f"seen-{word}:", "pretraining included")
        assert not (run / "folds").exists()


def test_a_folder_that_does_not_say_what_it_saw_is_refused(
    medformer: Medformer, frames: Path, encoder: Path, tmp_path: Path
) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(encoder, silent)
    (silent / "subjects.json").unlink()
    command = (*RUN, "--data", frames / "tested.csv", "--out", tmp_path / "run", f"pretraining.weights={silent}")
    medformer(*command).refused(3, "subjects.json", "unknown whether", "medformer polyp pretrain")


def test_pretraining_opens_no_mask(
    medformer: Medformer, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise AssertionError("a mask was read")

    monkeypatch.setattr("medformer.data.frames.store.decode_mask", stop)
    monkeypatch.setattr("medformer.tasks.polyp.learner.read_mask", stop)
    result = medformer("polyp", "pretrain", "--data", frames / "tested.csv", "--out", tmp_path / "out", *SETTINGS)
    assert result.code == 0, result.err


def test_what_cannot_be_pretrained_is_named_before_anything_is_computed(
    medformer: Medformer, frames: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pretrain = ("polyp", "pretrain", "--out", out, *SETTINGS)
    medformer(*pretrain, "--data", frames / "all.csv", "model.name=smp:unet/resnet18").refused(2, "meta_polyp")
    medformer(*pretrain, "--data", frames / "all.csv", "pretraining.block=32").refused(2, "pretraining.block=8")
    # What is trained on must be in the list of what the encoder has seen.
    encoder = tmp_path / "encoder.safetensors"
    write_tensors(encoder, {"backbone.a": torch.zeros(3)}, {"task": "polyp", "purpose": "segmentation"})
    for override, word in (
        (f"pretraining.extra={frames / 'all.csv'}", "pretraining.extra is for `train` and `crossval`"),
        (f"pretraining.weights={tmp_path}", "pretraining.weights is for `train` and `crossval`"),
        (f"model.weights={encoder}", "does not say what that network has seen"),
    ):
        medformer(*pretrain, "--data", frames / "unlabeled.csv", override).refused(2, word)
    assert not out.exists()
    broken = frames / "broken.csv"
    cases = read_manifest(frames / "unlabeled.csv").cases
    write_manifest(broken, [*cases, replace(cases[0], id="gone", image=frames / "images" / "gone.png")])
    medformer(*pretrain, "--data", broken).refused(3, "gone", "missing-image")
