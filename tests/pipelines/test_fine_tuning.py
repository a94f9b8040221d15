"""Fine-tuning: a run starts from the network of another, and may not test what that one was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_walls import small_walls
from torch import nn

from medformer.crossval.plan import read_plan
from medformer.data.cases import Case
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.data.volumes.read.dataset_file import DatasetInfo, write_info
from medformer.files import read_json, write_text

Medformer = Callable[..., Any]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of eight frames of four other patients."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with small_walls():
        manifest = write_synthetic_colonoscopy(folder, groups=4, frames_per_group=2, size=(48, 64), seed=7)
    cases = read_manifest(manifest).cases
    write_manifest(manifest, [replace(case, id=f"new_{case.id}", group=f"new_{case.group}") for case in cases])
    return manifest


@pytest.fixture
def tune(medformer: Medformer, settings: tuple[str, ...], elsewhere: Path) -> Callable[..., Any]:
    """Cross-validates on the other patients."""

    def run(out: Path, start: Path, *more: object, data: Path = elsewhere, report: bool = False) -> Any:
        command = ("polyp", "crossval", "--data", data, "--out", out, "--init-from", start, "--no-baselines")
        return medformer(*command, *settings, "training.epochs=1", *more, report=report)

    return run


def first_weights(monkeypatch: pytest.MonkeyPatch, command: Callable[[], Any]) -> dict[str, torch.Tensor]:
    """What the first training of a command starts from; the command is stopped there."""
    found: dict[str, torch.Tensor] = {}

    def stop(model: nn.Module, *_: object, **__: object) -> None:
        found.update({name: value.clone() for name, value in model.state_dict().items()})
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medformer.tasks.polyp.learner.fit", stop)
        result = command()
    assert result.code == 130, result.err
    return found


def test_training_starts_from_the_first_fold_or_the_one_that_is_named(
    tune: Callable[..., Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, fold in ((finished, 0), (finished / "folds" / "1", 1)):
        out = tmp_path / str(fold)
        weights = first_weights(monkeypatch, lambda out=out, start=start: tune(out, start))
        expected = load_file(finished / "folds" / str(fold) / "model.safetensors")
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        assert read_json(out / "start" / "source.json")["what"] == f"fold {fold} of run"


def test_what_was_taken_is_said_recorded_and_reported(tune: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = tune(out, finished, "data.image_size=[32, 64]", report=True)
    assert result.code == 0, result.err
    total = len(load_file(finished / "folds/0/model.safetensors"))
    said = f"Starts from fold 0 of run: {total} of {total} tensors taken as they are, 0 adapted, 0 left"
    assert result.err.count(said) == 2
    record = read_json(out / "folds/1/start.json")
    assert (record["taken"], record["left"], record["share"]) == (total, {}, 1.0)
    assert record["differing"] == ["data.image_size [32, 32] there, [32, 64] here"]
    page = (out / "report.html").read_text("utf-8")
    assert "Where training started" in page and "fold 0 of run" in page and "seen-data" in page
    assert str(finished.parent) not in page
    assert "Training started from fold 0 of run." in (out / "model_card.md").read_text("utf-8")
    # What the other network has seen goes on to whoever starts from this one.
    seen = {row["id"] for row in read_json(out / "seen.json")["before"]}
    fold = read_plan(finished / "splits.json").folds[0]
    assert seen == {*fold.train, *fold.validation}


def test_what_the_other_network_was_trained_on_may_not_be_tested(
    tune: Callable[..., Any], finished: Path, data: Path, tmp_path: Path
) -> None:
    fold = read_plan(finished / "splits.json").folds[0]
    out = tmp_path / "run"
    leaking = tune(out, finished, data=data)
    learnt = len({*fold.train, *fold.validation})
    leaking.refused(4, f"({learnt} seen-data)", f"seen-data:{fold.train[0]}|{fold.train[0]}", "seen by fold 0 of run")
    assert not out.exists()

    # A copy of an image under another name, another image of a patient, and a copy in another size and format.
    cases = read_manifest(data).by_id
    known, other = cases[fold.train[0]], cases[fold.test[0]]
    copies = [tmp_path / "image.jpg", tmp_path / "mask.png"]
    for path, source in zip(copies, (known.image, known.mask), strict=True):
        with Image.open(source) as picture:
            picture.resize((96, 72), Image.Resampling.NEAREST if path.suffix == ".png" else None).save(path)
    rows = [replace(cases[name], group=f"other {cases[name].group}") for name in fold.test[1:]]
    for number, (row, word) in enumerate(
        [
            (replace(known, id="renamed", group="renamed"), "seen-data:renamed"),
            (replace(other, id="other", group=known.group), "seen-group:other"),
            (Case("copy", copies[0], copies[1], "copy"), "seen-near-duplicate:copy"),
        ]
    ):
        manifest = data.parent / f"leaking_{number}.csv"
        write_manifest(manifest, [row, *rows])
        tune(out, finished, data=manifest).refused(4, word, "1 finding")
        manifest.unlink()


def test_what_is_accepted_or_unknown_is_in_the_report(
    tune: Callable[..., Any], finished: Path, data: Path, tmp_path: Path
) -> None:
    out, earlier = tmp_path / "run", tmp_path / "earlier"
    shutil.copytree(finished, earlier)
    (earlier / "seen.json").unlink()
    result = tune(out, earlier, "--accept-leak", "seen-data:*", data=data, report=True)
    assert result.code == 0, result.err
    unknown = "was written by an earlier version"
    assert unknown in result.err
    findings = read_json(out / "audit.json")["findings"]
    assert findings and all(finding["accepted"] and finding["kind"] == "seen-data" for finding in findings)
    page = (out / "report.html").read_text("utf-8")
    assert "seen-data:*" in page and unknown in page


def test_a_bundle_is_started_from_and_recognizes_what_it_was_trained_on(
    medformer: Medformer, tune: Callable[..., Any], finished: Path, data: Path, elsewhere: Path, tmp_path: Path
) -> None:
    bundle, silent, out = tmp_path / "bundle", tmp_path / "silent", tmp_path / "run"
    assert medformer("export", finished, "--out", bundle, "--fold", "1").code == 0
    assert medformer("export", finished, "--out", silent, "--no-hashes").code == 0
    seen = read_json(bundle / "seen.json")["hashes"]
    fold = read_plan(finished / "splits.json").folds[1]
    assert {kind: len(values) for kind, values in seen.items()} == dict.fromkeys(
        ("file", "pixels"), len({*fold.train, *fold.validation})
    )
    cases = read_manifest(data).by_id
    manifest = data.parent / "one_is_known.csv"
    write_manifest(manifest, [replace(cases[fold.train[0]], id="renamed", group="x"), *read_manifest(elsewhere).cases])
    leaking = tune(out, bundle, data=manifest)
    leaking.refused(4, "1 finding (1 seen-data)", "seen-data:renamed|image ", "seen by the bundle bundle")
    assert not (silent / "seen.json").exists()
    for start, words in ((bundle, "names no patients"), (silent / "folds" / "0", "does not say which cases")):
        run = tmp_path / f"from_{start.name}"
        result = tune(run, start, "crossval.scheme=predefined")
        assert result.code == 0 and words in result.err, result.err
        assert words in read_json(run / "audit.json")["unknown"][0]
    manifest.unlink()


def test_a_run_that_was_begun_needs_the_other_no_longer(
    tune: Callable[..., Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(finished, source)
    whole = first_weights(monkeypatch, lambda: tune(out, source))
    weights = source / "folds/0/model.safetensors"
    shutil.copy(source / "folds/1/model.safetensors", weights)
    tune(out, source, "--resume").refused(2, "not the network that", str(out / "start"))
    tune(out, source / "folds/1", "--resume").refused(2, "folds/1 is not the network that")
    shutil.rmtree(source)
    again = first_weights(monkeypatch, lambda: tune(out, source, "--resume"))
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    (out / "start/model.safetensors").write_bytes(b"")
    tune(out, source, "--resume").refused(3, "does not hold the network")


def test_what_cannot_be_started_from_is_named_before_anything_is_computed(
    medformer: Medformer, tune: Callable[..., Any], finished: Path, elsewhere: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tune(out, tmp_path / "nowhere").refused(2, "there is no", "nowhere")
    tune(out, finished / "folds/0/model.safetensors").refused(2, "neither a run nor a bundle", "RUN/folds/0")
    tune(out, finished / "folds/7").refused(2, "no trained fold 7", "Trained are 0, 1")
    tune(out, finished, "model.name=smp:unet/resnet18").refused(
        2,
        "the network of fold 0 of run is another one",
        "0.0 % of",
        "model.name=smp:linknet/tu-test_efficientnet",
    )
    tune(out, finished, "pretraining.enabled=true").refused(2, "Add pretraining.enabled=false")
    medformer("polyp", "pretrain", "--data", elsewhere, "--out", out, f"training.init_from={finished}").refused(
        2, "training.init_from is for `train` and `crossval`"
    )
    own = tmp_path / "own" / "run"
    shutil.copytree(finished, own)
    tune(own, own, "--overwrite").refused(2, "--overwrite would delete")
    tune(own / ".." / "run", own, "--overwrite").refused(2, "--overwrite would delete")
    record = own / "run.json"
    write_text(record, record.read_text("utf-8").replace('"task": "polyp"', '"task": "volume"'))
    tune(out, own).refused(2, "is a run of the task volume")
    assert not out.exists()


VOLUME = (
    "model.backbone=tiny",
    "plan.patch=[16, 16, 16]",
    "plan.batch_size=2",
    "training.epochs=1",
    "data.patches=1",
    "data.workers=0",
    "crossval.folds=2",
    "crossval.baselines=false",
)


def brains(folder: Path, labels: dict[int, tuple[int, str]], seed: int) -> Path:
    """The manifest of six small brains, with only some of the labels, under other values and names."""
    manifest = write_synthetic_volumes(folder, cases=6, spacing=18.0, seed=seed)
    for case in read_manifest(manifest).cases:
        image = nib.load(case.mask)
        before = np.asanyarray(image.dataobj)
        after = np.zeros_like(before)
        for old, (new, _) in labels.items():
            after[before == old] = new
        nib.save(nib.Nifti1Image(after, image.affine, image.header), case.mask)
    info = DatasetInfo(tuple(sorted(labels.values())), ("T1",))
    write_info(manifest, info)
    write_manifest(
        manifest, [replace(c, id=f"{seed}_{c.id}", group=f"{seed}_{c.group}") for c in read_manifest(manifest).cases]
    )
    return manifest


def test_volumes_with_another_number_of_labels(medformer: Medformer, tmp_path: Path) -> None:
    one = brains(tmp_path / "one", {2: (1, "white matter")}, 1)
    two = brains(tmp_path / "two", {1: (1, "gray matter"), 2: (2, "white matter")}, 2)
    first = medformer("volume", "train", "--data", one, "--out", tmp_path / "first", *VOLUME, report=False)
    assert first.code == 0, first.err
    again = ("--init-from", tmp_path / "first", *VOLUME, "training.lr=1e-12")
    leaking = medformer("volume", "crossval", "--data", one, "--out", tmp_path / "leak", *again)
    leaking.refused(4, "seen by fold 0 of first", "seen-data")
    result = medformer("volume", "train", "--data", two, "--out", tmp_path / "second", *again, report=False)
    assert result.code == 0, result.err
    assert "4 of" not in result.err and "Starts from fold 0 of first" in result.err
    record = read_json(tmp_path / "second/folds/0/start.json")
    heads = {name for name in record["adapted"] if name.startswith(("decoder.head", "decoder.auxiliary"))}
    assert heads == set(record["adapted"]) and not record["left"], record
    assert (
        record["adapted"]["decoder.head.bias"] == "of background, gray matter, white matter: background, white matter"
    )
    before, after = (load_file(tmp_path / run / "folds/0/model.safetensors") for run in ("first", "second"))
    # Nothing was learned at this rate, so what the second run has is what it took.
    torch.testing.assert_close(after["decoder.head.weight"][[0, 2]], before["decoder.head.weight"], atol=1e-5, rtol=0)
    assert after["decoder.head.weight"].shape[0] == 3
