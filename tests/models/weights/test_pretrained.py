"""What `auto` is on a machine, and what a config that is passed on says of its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from medformer.config.shared import ModelConfig
from medformer.models.networks.pretrained import pretrained_part, resolve_weights

LITE0 = "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "backbone", "part"),
    [
        ("meta_unet", "caformer_s18", "caformer_s18"),
        ("meta_light", "lite0_metaformer", LITE0),
        ("meta_unet", "timm:resnet18", "resnet18"),
        ("smp:unet/tu-resnet34", "caformer_s18", "resnet34"),
        ("smp:unet/resnet34", "caformer_s18", "resnet34"),
        ("monai:unet", "caformer_s18", "monai:unet"),
    ],
)
def test_a_config_says_whose_weights_fit(name: str, backbone: str, part: str) -> None:
    assert pretrained_part(ModelConfig(name=name, backbone=backbone)) == part


def test_auto_is_what_is_here_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDFORMER_WEIGHTS", str(tmp_path))
    config = ModelConfig(name="meta_light", backbone="lite0_metaformer", weights="auto")
    found, note = resolve_weights(config)
    assert found.weights == f"{LITE0}.in1k" and "ImageNet-1k (license: apache-2.0)" in note
    monkeypatch.setattr("medformer.models.weights.store.find_spec", lambda name: None)
    found, note = resolve_weights(config)
    assert found.weights is None and f"random weights, which costs accuracy: no pretrained weights of {LITE0}" in note
    assert f"`medformer weights get {LITE0}.in1k`" in note and str(tmp_path) not in note
    # Nothing to choose from on any machine, or nothing to decide.
    assert resolve_weights(ModelConfig(name="monai:unet", weights="auto")) == (ModelConfig(name="monai:unet"), "")
    assert resolve_weights(ModelConfig(weights="w.pth")) == (ModelConfig(weights="w.pth"), "")
