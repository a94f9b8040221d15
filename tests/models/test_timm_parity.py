"""With the same weights, our backbones compute what timm's do."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from medformer.models.backbone.heads import MlpHead
from medformer.models.backbone.variants import build_backbone, build_classifier
from medformer.models.weights.loading import load_pretrained


def perturbed(name: str) -> nn.Module:
    """timm's network with every parameter moved, so that no scale of 1 or bias of 0 hides a mistake."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "name", ["caformer_s18", "convformer_s18", "poolformerv2_s12", "poolformer_s12", "focalnet_tiny_lrf"]
)
def test_logits_and_features_equal_timm(name: str, tmp_path: Path) -> None:
    theirs = perturbed(name)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = build_classifier(name).eval()
    kept = load_pretrained(ours, tmp_path / "weights.safetensors")
    assert not kept
    if isinstance(ours.head, MlpHead):
        # timm norms the MLP head with epsilon 1e-6, the original with 1e-5.
        ours.head.fc["norm"].eps = 1e-6
    for size in ((224, 224), (160, 192)):
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            right = theirs.forward_intermediates(x, intermediates_only=True)
            torch.testing.assert_close(ours.backbone(x), right, atol=1e-4, rtol=0)
            if name != "poolformer_s12":
                # PoolFormer v1 norms before it pools; timm pools first.
                torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["shvit_s1", "shvit_s4", "efficientvim_m1", "efficientvim_m4"])
def test_maps_equal_timm_below_the_map_of_the_stem(name: str, tmp_path: Path) -> None:
    theirs = perturbed(name)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = build_backbone(name).eval()
    assert not load_pretrained(ours, tmp_path / "weights.safetensors")
    for size in ((128, 128), (96, 160)):
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            right = theirs.forward_intermediates(x, intermediates_only=True)
            torch.testing.assert_close(ours(x)[1:], right, atol=1e-4, rtol=1e-4)
