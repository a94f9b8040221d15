"""A run that starts from pretrained weights says which, keeps them, and is applied without them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bundles import files_of, moved_bundle
from safetensors.torch import load_file
from small_walls import small_walls
from torch import nn

from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.files import read_json

Medformer = Callable[..., Any]
LITE0 = "tf_efficientnet_lite0"
START = ("model.name=smp:linknet/tu-tf_efficientnet_lite0", "model.weights=auto", "training.epochs=1")


@pytest.fixture(scope="module")
def started(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished run on these weights, and what was said; not to be changed."""
    run = tmp_path_factory.mktemp("started") / "run"
    return run, medformer("polyp", "crossval", "--out", run, "--data", data, *settings, *START, "--no-baselines")


def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("medformer.models.weights.store.find_spec", lambda name: None)
    monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path / "none"))


def test_what_auto_chose_is_said_recorded_and_reported(started: Any) -> None:
    run, result = started
    assert result.code == 0
    assert f"The encoder starts from the weights {LITE0}.in1k, trained on ImageNet-1k" in result.err
    assert yaml.safe_load((run / "config.yaml").read_text("utf-8"))["model"]["weights"] == f"{LITE0}.in1k"
    found = read_json(run / "run.json")["pretrained"]
    assert (found["name"], found["license"], found["sha256"][:7]) == (f"{LITE0}.in1k", "apache-2.0", "5793442")
    report = re.sub("<[^>]*>", "", (run / "report.html").read_text("utf-8"))
    for word in (f"{LITE0}.in1k", "ImageNet-1k", "apache-2.0", found["sha256"]):
        assert word in report
    card = (run / "model_card.md").read_text("utf-8")
    assert f"The encoder started from {LITE0}.in1k (trained on: ImageNet-1k; license: apache-2.0; SHA-256 579" in card
    # (pixels - 127) / 128, from what every network is given.
    tensors = load_file(run / "folds" / "0" / "model.safetensors")
    assert tensors["before.scale"].tolist() == pytest.approx([0.229 * 255 / 128, 0.224 * 255 / 128, 0.225 * 255 / 128])


def test_a_run_goes_on_with_what_it_began_with_or_not_at_all(
    started: Any, medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    run, _ = started
    again = ("polyp", "crossval", "--out", run, "--data", data, *settings, *START, "--no-baselines", "--resume")
    assert medformer(*again, report=False).code == 0
    without_weights(monkeypatch, tmp_path)
    medformer(*again).refused(2, f"{LITE0}.in1k are not on this machine", "medformer[imagenet]")
    new = ("polyp", "crossval", "--out", tmp_path / "new", "--data", data, *settings, *START, "model.name=meta_unet")
    medformer(*new, "model.weights=caformer_s18.sail_in1k").refused(2, "medformer weights get caformer_s18.sail_in1k")
    assert not (tmp_path / "new").exists()


def test_run_and_bundle_predict_alike_without_the_pretrained_file(
    started: Any, medformer: Medformer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = started
    bundle = moved_bundle(medformer, run, tmp_path / "bundle")
    assert read_json(bundle / "bundle.json")["pretrained"]["license"] == "apache-2.0"
    without_weights(monkeypatch, tmp_path)
    image = data.parent / "images" / "p000_f00.jpg"
    for model, out in ((run, "by_run"), (bundle, "by_bundle")):
        assert medformer("polyp", "predict", model, image, "--out", tmp_path / out, "--probabilities", "npz").code == 0
    names = sorted(file.relative_to(tmp_path / "by_run") for file in files_of(tmp_path / "by_run"))
    assert any(name.suffix == ".npz" for name in names)
    for name in names:
        assert (tmp_path / "by_run" / name).read_bytes() == (tmp_path / "by_bundle" / name).read_bytes(), name


def test_the_encoder_of_another_run_is_taken_unless_it_has_seen_what_is_tested(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (*settings, "model.name=meta_unet", "model.backbone=timm:test_efficientnet", "training.epochs=1")
    source = tmp_path / "source"
    assert medformer("polyp", "train", "--out", source, "--data", data, *small).code == 0
    own = source / "folds" / "0" / "model.safetensors"
    again = ("polyp", "crossval", *small, "model.name=meta_light", "--no-baselines")
    leaking = medformer(*again, "--data", data, "--out", tmp_path / "leak", f"model.weights={own}")
    leaking.refused(4, "seen-data", "seen by fold 0 of source")
    with small_walls():
        other = write_synthetic_colonoscopy(tmp_path / "frames", groups=4, frames_per_group=2, size=(48, 64), seed=7)
    cases = [replace(case, id=f"n{case.id}", group=f"n{case.group}") for case in read_manifest(other).cases]
    write_manifest(other, cases)
    found: dict[str, torch.Tensor] = {}

    def stop(model: nn.Module, *_: object, **__: object) -> None:
        found.update(model.state_dict())
        raise KeyboardInterrupt

    monkeypatch.setattr("medformer.tasks.polyp.learner.fit", stop)
    assert medformer(*again, "--data", other, "--out", tmp_path / "run", f"model.weights={source}").code == 130
    expected = load_file(own)
    taken = [name for name in found if name.startswith("backbone.")]
    assert len(taken) > 50 and all(torch.equal(found[name], expected[name]) for name in taken)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text("utf-8"))["model"]["weights"] == str(own)
    assert read_json(tmp_path / "run" / "run.json")["pretrained"]["name"] == "a network of medformer"
    wrong = medformer(*again, "--data", other, "--out", tmp_path / "wrong", f"model.weights={tmp_path}")
    wrong.refused(2, f"model.weights: {tmp_path} is ")
