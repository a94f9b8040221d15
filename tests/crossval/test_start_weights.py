"""What is known of the cases that the encoder of `model.weights` has seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medformer.config import AbideConfig, PolypConfig
from medformer.config.shared import ModelConfig
from medformer.crossval.run.start.seen import Seen
from medformer.crossval.run.start.source import Start, StartRecord
from medformer.crossval.run.start.weights import decide_weights, describe_weights, seen_by_encoder
from medformer.errors import ConfigError
from medformer.tensor_file import write_tensors


def config(weights: str | None) -> PolypConfig:
    return PolypConfig(model=ModelConfig(name="meta_light", backbone="lite0_metaformer", weights=weights))


def test_published_weights_have_seen_no_case_and_a_lone_network_does_not_say(tmp_path: Path) -> None:
    for weights in (None, "tf_efficientnet_lite0.in1k"):
        assert seen_by_encoder(config(weights)) == Seen()
    write_tensors(tmp_path / "lone.safetensors", {"backbone.a": torch.zeros(3)}, {"task": "polyp"})
    found = seen_by_encoder(config(str(tmp_path / "lone.safetensors")))
    assert not found.cases and "lies outside of its run, so that nobody can tell" in found.unknown[0]
    assert str(tmp_path) not in found.unknown[0]
    # A link to the file of a fold is that file.
    fold = tmp_path / "run" / "folds" / "0"
    fold.mkdir(parents=True)
    (tmp_path / "lone.safetensors").rename(fold / "model.safetensors")
    (tmp_path / "link.safetensors").symlink_to(fold / "model.safetensors")
    with pytest.raises(ConfigError, match=r"^model\.weights: .*is neither a run nor a bundle"):
        seen_by_encoder(config(str(tmp_path / "link.safetensors")))


def test_data_and_license_of_weights_outlive_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"data": "ImageNet-1k", "license": "apache-2.0"}
    record = StartRecord("fold 0 of run", "polyp", {}, 0, "", pretrained=before)
    monkeypatch.setattr("medformer.crossval.run.start.weights.open_start", lambda path, task: Start(path, record))
    path = tmp_path / "folds" / "0" / "model.safetensors"
    path.parent.mkdir(parents=True)
    write_tensors(path, {"backbone.a": torch.zeros(3)}, {"task": "polyp"})
    found = describe_weights(config(str(path)))
    assert found["data"] == "ImageNet-1k, then the cases of another run of medformer"
    assert found["license"] == "apache-2.0"


def test_what_is_decided_stays_decided(tmp_path: Path) -> None:
    given = config("tf_efficientnet_lite0.in1k")
    assert decide_weights(given, tmp_path, resume=False) == (given, [])
    assert decide_weights(config("auto"), tmp_path, resume=False)[0] == given
    assert decide_weights(AbideConfig(), tmp_path, resume=False) == (AbideConfig(), [])


def test_levels_of_another_network_may_be_kept_whatever_it_began_with(tmp_path: Path) -> None:
    start = Start(tmp_path, StartRecord("fold 0 of run", "polyp", {}, 0, ""))
    given = config("auto")
    given = given.model_copy(update={"model": given.model.model_copy(update={"frozen": 2})})
    decided, notes = decide_weights(given, tmp_path, resume=False, start=start)
    assert (decided.model.weights, decided.model.frozen, notes) == (None, 2, [])  # type: ignore[union-attr]
