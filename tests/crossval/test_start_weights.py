"""What is known of the cases that the encoder of `model.weights` has seen."""

from __future__ import annotations

from pathlib import Path

import torch

from medformer.config import AbideConfig, PolypConfig
from medformer.config.shared import ModelConfig
from medformer.crossval.run.start.seen import Seen
from medformer.crossval.run.start.weights import decide_weights, seen_by_encoder
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


def test_what_is_decided_stays_decided(tmp_path: Path) -> None:
    given = config("tf_efficientnet_lite0.in1k")
    assert decide_weights(given, tmp_path, resume=False) == (given, [])
    assert decide_weights(config("auto"), tmp_path, resume=False)[0] == given
    assert decide_weights(AbideConfig(), tmp_path, resume=False) == (AbideConfig(), [])
