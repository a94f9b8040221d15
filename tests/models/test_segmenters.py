from __future__ import annotations

import pytest
import torch

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.variants import count_parameters
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.meta_unet import (
    AS_PUBLISHED,
    MAX_KEYS,
    PAPER,
    SETTINGS,
    AxisAttention,
    MetaUNet,
    Mix,
    PooledAttention,
)

IMAGE = Grid(in_channels=3, out_channels=1, size=(352, 352))
SMALL = Architecture(["pooling"], depths=(1, 1, 1, 1), channels=(32, 32, 64, 64))


def small(dims: int = 2, setting: str = "paper", channels: int = 3) -> MetaUNet:
    torch.manual_seed(0)
    backbone = MetaFormer(dims, channels, SMALL)
    return MetaUNet(backbone, setting=SETTINGS[setting]).eval()


def test_as_published_has_the_published_size() -> None:
    assert count_parameters(build_network(ModelConfig(setting="as_published"), IMAGE)) == 28_762_705


@pytest.mark.parametrize("setting", ["paper", "as_published"])
@pytest.mark.parametrize("size", [(64, 64), (50, 71), (1, 1), (33, 96)])
def test_logits_have_the_input_size(setting: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert small(setting=setting)(torch.randn(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("setting", ["paper", "as_published"])
def test_the_decoder_works_in_every_dimension(dims: int, setting: str) -> None:
    size = (33, 40, 18)[:dims]
    with torch.no_grad():
        assert small(dims, setting, channels=1)(torch.randn(2, 1, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_deep_supervision_adds_logits_of_input_size_while_training_only(dims: int) -> None:
    backbone = MetaFormer(dims, 1, SMALL)
    model, x = MetaUNet(backbone, 1, PAPER, deep_supervision=True), torch.randn(2, 1, *(40, 33, 18)[:dims])
    outputs = model.train()(x)
    assert [level.shape for level in outputs] == [x.shape] * 3
    sum(level.square().sum() for level in outputs).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        assert model.eval()(x).shape == x.shape


def test_anisotropic_strides_reach_the_decoder() -> None:
    backbone = MetaFormer(
        3,
        1,
        Architecture(["pooling"], depths=[1] * 4, channels=[32] * 4),
        strides=((1, 4, 4), (1, 2, 2), 2, 2),
    )
    with torch.no_grad():
        assert MetaUNet(backbone, 1, PAPER).eval()(torch.randn(1, 1, 6, 40, 50)).shape == (1, 1, 6, 40, 50)


@pytest.mark.parametrize("setting", ["paper", "as_published"])
def test_a_sample_does_not_depend_on_the_others_at_inference(setting: str) -> None:
    model, x = small(setting=setting), torch.randn(2, 3, 64, 48)
    other = x.clone()
    other[1] = -other[1]
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0], model(other)[0])


def test_every_parameter_is_used() -> None:
    """The released code of Meta-Polyp carries a dead branch; ours must not."""
    model = small().train()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_upsampling_after_norm_and_pointwise_layers_is_the_published_order() -> None:
    block, after = Mix(2, 8, 4, AS_PUBLISHED).train(), torch.nn.Linear(4, 3)
    x = torch.randn(2, 8, 5, 6)

    def raised(maps: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(maps, scale_factor=2.0, mode="nearest")

    def pointwise(maps: torch.Tensor) -> torch.Tensor:
        return torch.relu(after(maps.movedim(1, -1))).movedim(-1, 1)

    published = pointwise(block.norm(raised(torch.relu(block.conv1(x)) + torch.relu(block.conv3(x)))))
    torch.testing.assert_close(raised(pointwise(block(x))), published)


def test_axis_attention_is_unscaled_and_stays_within_its_line() -> None:
    x = torch.randn(1, 4, 3, 5)
    rows = x.permute(0, 2, 3, 1)
    expected = torch.softmax(rows @ rows.transpose(-1, -2), -1) @ rows
    torch.testing.assert_close(AxisAttention()(x), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)


def test_pooled_attention_is_plain_attention_on_small_maps_and_bounded_on_large_ones() -> None:
    torch.manual_seed(0)
    attention = PooledAttention(32)
    x = torch.randn(1, 32, 6, 5)
    flat = x.flatten(2).transpose(1, 2)
    key, value = (flat @ attention.key_value.weight.T).chunk(2, -1)
    query = flat @ attention.query.weight.T
    expected = torch.softmax(query @ key.transpose(1, 2) / 32**0.5, -1) @ value @ attention.proj.weight.T
    torch.testing.assert_close(attention(x).flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-4)
    seen: list[torch.Size] = []
    attention.key_value.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert attention(torch.randn(1, 32, 64, 100)).shape == (1, 32, 64, 100)
    assert seen[0][2:].numel() <= 1.1 * MAX_KEYS


def test_branch_features_are_the_stage_output_less_its_skip() -> None:
    torch.manual_seed(0)
    backbone = MetaFormer(
        2, 3, Architecture(["pooling"], depths=[1] * 4, channels=[32] * 4, res_scale_from=None)
    ).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        block = backbone.stages[0].blocks[0]
        stem = backbone.stem(x)
        skip = stem + block.token_mixer(block.norm1(stem))
        output = backbone(x)[0]
        backbone.branch_features = True
        torch.testing.assert_close(backbone(x)[0], output - skip, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["smp:unet/resnet18", "smp:segformer/mit_b0", "smp:fpn/mobilenet_v2"])
def test_peers_take_any_size(name: str) -> None:
    model = build_network(ModelConfig(name=name), IMAGE).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 70, 45)).shape == (1, 1, 70, 45)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta_polip", "Did you mean 'meta_polyp'"),
        ("smp:unet", "smp:<architecture>/<encoder>"),
        ("smp:unett/resnet34", "Did you mean 'unet'"),
        ("smp:unet/resnet43", "Did you mean 'resnet34'"),
        ("smp:unet/tu-resnet43", "Did you mean 'tu-resnet"),
        ("smp:unet/tu-hf-hub:someone/model", "Nothing is looked up in a network"),
        ("smp:unet/tu-hf_hub:someone/model", "Nothing is looked up in a network"),
        ("smp:unet/tu-local-dir:/tmp", "Nothing is looked up in a network"),
        ("smp:unet/tu-resnet18.hf-hub:x", "Nothing is looked up in a network"),
        ("smp:unet/hf-hub:someone/model", "Nothing is looked up in a network"),
        ("smp:unet/timm-hf-hub:x/y", "Nothing is looked up in a network"),
    ],
)
def test_unknown_models_name_the_nearest(name: str, message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        build_network(ModelConfig(name=name), IMAGE)


def test_peers_are_refused_in_3d() -> None:
    with pytest.raises(ConfigError, match="two-dimensional"):
        build_network(ModelConfig(name="smp:unet/resnet18"), Grid(1, 2, (32, 32, 32)))


def test_the_head_before_the_last_upsampling_is_the_published_order() -> None:
    """Literally as released: both paths to full resolution, then sum, pointwise layers and head."""
    decoder = small(setting="as_published").decoder.eval()
    maps = [torch.randn(1, c, n, n) for c, n in ((32, 16), (32, 8), (64, 4), (64, 2))]
    seen: dict[str, torch.Tensor] = {}
    decoder.up1.register_forward_hook(lambda module, inputs, output: seen.update(x=output))
    decoder.narrow2.register_forward_hook(lambda module, inputs, output: seen.update(u=output))
    with torch.no_grad():
        logits = decoder(maps, torch.randn(1, 3, 64, 64))[0]
        full = [
            torch.nn.functional.interpolate(seen[k], scale_factor=f, mode="nearest") for k, f in (("x", 4), ("u", 8))
        ]
        torch.testing.assert_close(logits, decoder.head(decoder.fuse0(full[0] + full[1])))
