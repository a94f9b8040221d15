"""A network of timm as encoder: its maps and nothing else, MetaFormer blocks behind, and what is refused."""

from __future__ import annotations

import pytest
import timm
import torch

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.timm_metaformer import TimmMetaFormer
from medformer.models.backbone.variants import build_backbone
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid

TINY = "timm:test_efficientnet"


def tiny(**changes: object) -> TimmMetaFormer:
    torch.manual_seed(0)
    backbone = build_backbone(TINY, init="fan_in", **changes)  # type: ignore[arg-type]
    assert isinstance(backbone, TimmMetaFormer)
    return backbone.eval()


def test_levels_without_blocks_are_timms_maps_narrowed() -> None:
    backbone, x = tiny(), torch.randn(2, 3, 64, 96)
    reference = timm.create_model("test_efficientnet", features_only=True).eval()
    reference.load_state_dict(backbone.encoder.state_dict())
    with torch.no_grad():
        maps, theirs = backbone(x), reference(x)[-4:]
        for level in (0, 1):
            torch.testing.assert_close(maps[level], backbone.narrow[level](theirs[level]))
    assert [len(stage.blocks) for stage in backbone.stages] == [0, 0, 1, 1]
    assert backbone.pretrained_part is backbone.encoder


def test_mixers_work_on_the_coarse_maps_and_see_no_other_sample() -> None:
    mixers = ("identity", "identity", {"name": "attention", "heads": 4}, "pooling")
    backbone, x = tiny(mixers=mixers), torch.randn(2, 3, 64, 64)
    assert type(backbone.stages[2].blocks[0].token_mixer).__name__ == "Attention"
    assert backbone.stages[2].blocks[0].token_mixer.heads == 4
    assert type(backbone.stages[3].blocks[0].token_mixer).__name__ == "Pooling"
    with torch.no_grad():
        for alone, together in zip(backbone(x[1:]), backbone(x), strict=True):
            torch.testing.assert_close(alone, together[1:], atol=1e-4, rtol=1e-4)


def test_maps_of_a_network_with_channels_at_the_end_are_turned() -> None:
    with torch.device("meta"):
        backbone = build_backbone("timm:swin_tiny_patch4_window7_224")
        maps = backbone(torch.empty(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (384, 7, 7)]


def test_frozen_levels_keep_weights_and_statistics() -> None:
    backbone = tiny(frozen=2).train()
    before = {key: value.clone() for key, value in backbone.encoder.state_dict().items()}
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    moving = {key for key, value in backbone.encoder.named_parameters() if value.grad is not None}
    changed = {key for key, value in backbone.encoder.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[1] for key in moving} == {"3", "4"} == {key.split(".")[1] for key in changed}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:tf_efficientnet_lite00", r"lists no model .*Did you mean 'timm:tf_efficientnet_lite0'\?"),
        ("timm:hf-hub:somebody/network", "Nothing is looked up in a network"),
        ("timm:test_vit", "test_vit gives maps at the strides 16, 16, .*expected 4, 8, 16 and 32"),
    ],
)
def test_what_cannot_be_an_encoder_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(name)


def test_a_level_may_end_in_a_layer_without_weights() -> None:
    with torch.device("meta"):
        backbone = build_backbone("timm:vgg11", frozen=1)
    moving = [key for key, value in backbone.pretrained_part.named_parameters() if value.requires_grad]
    # The map of stride 4 is that of the activation after the convolution `features.8`.
    assert moving[0] == "features_11.weight"


def test_a_network_that_timm_wraps_takes_its_weights_and_has_no_ends_of_levels() -> None:
    with torch.device("meta"):
        encoder = build_backbone("timm:twins_svt_small").pretrained_part
        assert encoder.state_dict().keys() <= timm.create_model("twins_svt_small").state_dict().keys()
        with pytest.raises(ConfigError, match=r"model\.frozen=1: .*where its levels end.*Set model\.frozen=0"):
            build_backbone("timm:twins_svt_small", frozen=1)


def test_only_levels_of_a_network_of_timm_can_be_frozen() -> None:
    with pytest.raises(ConfigError, match=r"model\.frozen=1 .*, and caformer_s18 has none"):
        build_backbone("caformer_s18", frozen=1)


@pytest.mark.parametrize("name", ["meta_light", "meta_polyp", "meta_unet"])
def test_networks_take_it_at_any_size(name: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(name=name, backbone=TINY, init="fan_in", drop_path=0.0, deep_supervision=True)
    network, x = build_network(config, Grid(3, 2, (64, 64))), torch.randn(2, 3, 45, 33)
    assert len(network.train()(x)) == 3
    network.eval()
    with torch.no_grad():
        assert network(x[:, :, :1, :1]).shape == (2, 2, 1, 1)
        torch.testing.assert_close(network(x[1:]), network(x)[1:], atol=1e-4, rtol=1e-4)
        if name != "meta_unet":
            return  # the contract tests export every decoder
        exported = torch.export.export(network.to("meta"), (x.to("meta"),))
    assert exported.module()(x.to("meta")).shape == (2, 2, 45, 33)


def test_the_light_decoder_mixes_with_the_mixers_of_its_fine_levels() -> None:
    mixers = ("pooling", {"name": "attention", "heads": 2}, "identity", "identity")
    network = build_network(ModelConfig(name="meta_light", backbone=TINY, mixers=mixers), Grid(3, 1, (64, 64)))
    found = {level: type(block.token_mixer).__name__ for level, block in network.decoder.blocks.items()}  # type: ignore[union-attr]
    assert found == {"0": "Pooling", "1": "Attention"}
