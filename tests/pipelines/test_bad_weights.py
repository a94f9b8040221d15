"""Weights that are of another network, damaged, or no weights at all are refused and never executed."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Medformer = Callable[..., Any]

CASE = "p002_f01"


def test_a_checkpoint_of_another_architecture_is_refused(
    medformer: Medformer, own_run: Path, data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    command = ("polyp", "train", "--out", other, "--data", data, *settings, "training.epochs=1")
    assert medformer(*command, "model.name=smp:fpn/tu-test_efficientnet", report=False).code == 0
    for name in ("model.safetensors", "state.safetensors"):
        shutil.copy(other / "folds/0" / name, own_run / "folds/0" / name)
    out, images = tmp_path / "out", data.parent / "images"
    weights = str(own_run / "folds/0/model.safetensors")
    medformer("polyp", "predict", own_run, images, "--out", out).refused(3, weights, "missing", "unexpected")
    assert not list(out.rglob("*.png"))
    (own_run / "folds/0/predictions.csv").unlink()
    resumed = medformer("polyp", "crossval", "--out", own_run, "--data", data, "--resume", *settings)
    resumed.refused(3, "folds/0/state.safetensors", "belongs to another training")


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_pickle_that_is_called_safetensors_is_not_opened(
    medformer: Medformer, own_run: Path, data: Path, tmp_path: Path
) -> None:
    executed = tmp_path / "executed"
    bad = pickle.dumps(Payload(executed))
    pickle.loads(bad)
    assert executed.exists()
    executed.unlink()
    weights = own_run / "folds/1/model.safetensors"
    weights.write_bytes(bad)
    result = medformer("polyp", "predict", own_run, data.parent / "images", "--out", tmp_path / "out")
    result.refused(3, str(weights), "pickle", "not opened")
    given = tmp_path / "imagenet.safetensors"
    given.write_bytes(bad)
    small = ("model.backbone=poolformer_s12", f"model.weights={given}", "--config", "polyp/quick")
    trained = medformer("polyp", "train", "--data", data, "--out", tmp_path / "run", *small)
    trained.refused(3, str(given), "pickle", "not opened")
    assert not executed.exists() and not list(tmp_path.glob("run/folds"))


def test_truncated_weights_are_refused(medformer: Medformer, own_run: Path, data: Path, tmp_path: Path) -> None:
    weights = own_run / "folds/1/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = medformer("polyp", "predict", own_run, data.parent / "images", "--out", tmp_path / "out")
    result.refused(3, str(weights), "not a complete safetensors file")
