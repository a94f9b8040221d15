"""PraNet: the published counts, timm's encoder, the published order of resizes, and any backbone at any size."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.variants import build_backbone, count_parameters
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pranet import PraNet, not_found
from medformer.training.losses.objectives import supervised_loss
from medformer.training.losses.segmentation import build_loss

SMALL = Architecture(["pooling"], depths=(1, 1, 1, 1), channels=(32, 32, 64, 96))


def small(out_channels: int = 1, deep_supervision: bool = True) -> PraNet:
    torch.manual_seed(0)
    return PraNet(MetaFormer(2, 3, SMALL, init="fan_in"), out_channels, deep_supervision)


def network(backbone: str, **changes: object) -> PraNet:
    torch.manual_seed(0)
    config = ModelConfig(name="pranet", backbone=backbone, deep_supervision=True).model_copy(update=changes)
    found = build_network(config, Grid(3, 1, (352, 352)))
    assert isinstance(found, PraNet)
    return found


def test_every_part_has_the_published_size() -> None:
    with torch.device("meta"):
        published = network("res2net50d")
    parts = {
        "backbone": 23_669_352,
        "fields.0": 178_112,
        "fields.1": 260_032,
        "fields.2": 423_872,
        "decoder": 277_473,
        "attend_deep": 5_441_794,
        "attend_middle": 140_226,
        "attend_fine": 107_458,
    }
    assert {name: count_parameters(published.get_submodule(name)) for name in parts} == parts
    assert count_parameters(published) == sum(parts.values()) == 30_498_319


def test_the_encoder_gives_the_maps_of_timms_network() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("res2net50d").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            # timm begins with norms of zero, which would hide most of a block.
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours = build_backbone("res2net50d").eval()
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.pretrained_part.load_state_dict(weights)
    maps: list[Tensor] = []
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        theirs.get_submodule(layer).register_forward_hook(lambda module, inputs, output: maps.append(output))
    for size in ((64, 96), (45, 70)):
        maps.clear()
        with torch.inference_mode():
            x = torch.randn(1, 3, *size)
            theirs.forward_features(x)
            for found, expected in zip(ours(x), maps, strict=True):
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_resizes_are_the_published_ones() -> None:
    """Literally as released, by factors: corners are aligned in the partial decoder, and nowhere else."""
    model, x = small().eval(), torch.randn(2, 3, 96, 64)

    def double(maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=True)

    def scaled(maps: Tensor, factor: float) -> Tensor:
        return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)

    def reverse(part: nn.Module, feature: Tensor, crop: Tensor) -> Tensor:
        kept = (-1 * torch.sigmoid(crop) + 1).expand(-1, feature.shape[1], -1, -1).mul(feature)
        kept = part.narrow(kept)
        for conv in part.convs:
            kept = F.relu(conv(kept))
        return part.last(kept) + crop

    with torch.no_grad():
        _, x2, x3, x4 = model.backbone(x)
        f2, f3, f4 = (field(level) for field, level in zip(model.fields, (x2, x3, x4), strict=True))
        part = model.decoder
        a = part.deep_on_middle(double(f4)) * f3
        b = part.deep_on_fine(double(double(f4))) * part.middle_on_fine(double(f3)) * f2
        c = part.join_middle(torch.cat((a, part.deep_beside_middle(double(f4))), 1))
        d = part.join_fine(torch.cat((b, part.middle_beside_fine(double(c))), 1))
        coarse = part.head(part.last(d))
        on4 = reverse(model.attend_deep, x4, scaled(coarse, 0.25))
        on3 = reverse(model.attend_middle, x3, scaled(on4, 2))
        on2 = reverse(model.attend_fine, x2, scaled(on3, 2))
        expected = [scaled(on2, 8), scaled(on3, 16), scaled(on4, 32), scaled(coarse, 8)]
        torch.testing.assert_close(model(x), expected[0])
        # While training, without what batch norm then does differently.
        model.training = True
        for found, level in zip(model(x), expected, strict=True):
            torch.testing.assert_close(found, level)


@pytest.mark.parametrize("backbone", ["res2net50d", "lite0_metaformer"])
def test_any_backbone_gives_four_maps_of_the_input_size(backbone: str) -> None:
    with torch.device("meta"):
        model = network(backbone).train()
        outputs = model(torch.empty(2, 3, 45, 70))
        assert [level.shape for level in outputs] == [(2, 1, 45, 70)] * 4
        assert model.eval()(torch.empty(2, 3, 1, 33)).shape == (2, 1, 1, 33)


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("backbone", ["timm:test_efficientnet", "convformer_t10"])
def test_every_parameter_gets_a_gradient(backbone: str, deep_supervision: bool) -> None:
    model = network(backbone, init="fan_in", deep_supervision=deep_supervision).train()
    mask = (torch.rand(2, 1, 37, 50) > 0.5).float()
    supervised_loss(build_loss("structure_legacy"), model(torch.randn(2, 3, 37, 50)), mask, side_weight=1.0).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert [name for name, p in model.named_parameters() if not torch.isfinite(p.grad).all()] == []


def test_two_classes_are_attended_to_as_one_logit_is() -> None:
    logit = torch.randn(2, 1, 5, 4)
    torch.testing.assert_close(not_found(logit), 1 - torch.sigmoid(logit))
    torch.testing.assert_close(not_found(torch.cat((torch.zeros_like(logit), logit), 1)), not_found(logit))


def test_a_backbone_without_blocks_takes_no_mixers() -> None:
    with pytest.raises(ConfigError, match=r"res2net50d does not support model\.mixers: .*model\.mixers=null"):
        network("res2net50d", mixers=("pooling",))
