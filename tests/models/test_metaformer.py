from __future__ import annotations

import pytest
import torch

from medformer.errors import UnknownNameError
from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.heads import MlpHead
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.mlp import StarReLU, squared_relu
from medformer.models.backbone.variants import (
    VARIANTS,
    build_backbone,
    build_classifier,
    count_parameters,
    variant_counts,
)

# 1000-class parameter counts of the published models.
PUBLISHED = {
    "poolformer_s12": 11_915_176,
    "poolformer_s24": 21_388_968,
    "poolformer_s36": 30_862_760,
    "poolformer_m36": 56_172_520,
    "poolformer_m48": 73_473_448,
    "poolformerv2_s12": 11_891_712,
    "poolformerv2_s24": 21_341_464,
    "poolformerv2_s36": 30_791_216,
    "poolformerv2_m36": 56_077_168,
    "poolformerv2_m48": 73_346_056,
    "identityformer_s12": 11_891_712,
    "identityformer_s24": 21_341_464,
    "identityformer_s36": 30_791_216,
    "identityformer_m36": 56_077_168,
    "identityformer_m48": 73_346_056,
    "randformer_s12": 11_891_712 + 235_298,
    "randformer_s24": 21_341_464 + 470_596,
    "randformer_s36": 30_791_216 + 705_894,
    "randformer_m36": 56_077_168 + 705_894,
    "randformer_m48": 73_346_056 + 941_192,
    "convformer_s18": 26_774_448,
    "convformer_s36": 40_012_152,
    "convformer_m36": 57_051_640,
    "convformer_b36": 99_882_616,
    "caformer_s18": 26_341_656,
    "caformer_s36": 39_297_102,
    "caformer_m36": 56_204_878,
    "caformer_b36": 98_753_614,
    "dfformer_s18": 30_324_372,
    "dfformer_s36": 45_610_656,
    "dfformer_m36": 65_316_064,
    "dfformer_b36": 114_989_344,
    "cdfformer_s18": 30_193_512,
    "cdfformer_s36": 45_230_658,
    "cdfformer_m36": 64_433_218,
    "cdfformer_b36": 113_368_642,
    "gfformer_s18": 29_639_856,
    "shvit_s1": 6_330_808,
    "shvit_s2": 11_483_072,
    "shvit_s3": 14_245_273,
    "shvit_s4": 16_588_484,
    "focalnet_tiny_srf": 28_427_116,
    "focalnet_tiny_lrf": 28_647_928,
    "focalnet_small_srf": 49_891_216,
    "focalnet_small_lrf": 50_342_440,
    "focalnet_base_srf": 88_148_144,
    "focalnet_base_lrf": 88_749_768,
}
# timm's counts of the networks without their heads, which read the hidden states of all stages: a norm for each stage
# and for the last map, with a scale and a bias for each channel, and four weights.
EFFICIENTVIM = {
    "efficientvim_m1": 5_715_458 - 2 * (128 + 192 + 320 + 320) - 4,
    "efficientvim_m2": 12_491_842 - 2 * (128 + 256 + 512 + 512) - 4,
    "efficientvim_m3": 15_032_174 - 2 * (224 + 320 + 512 + 512) - 4,
    "efficientvim_m4": 18_034_505 - 2 * (224 + 320 + 512 + 512) - 4,
}
FEATURES = {
    "caformer_s18": (21_901_616, 23_236_912, 27_422_000),
    "convformer_s18": (21_963_464, 23_669_704, 30_451_400),
    "poolformerv2_s12": (10_090_776, 11_377_688, 15_224_088),
}


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert {name: count_parameters(build_classifier(name)) for name in PUBLISHED} == PUBLISHED


def test_feature_counts_of_networks_with_another_head_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert {name: count_parameters(build_backbone(name)) for name in EFFICIENTVIM} == EFFICIENTVIM


@pytest.mark.parametrize("name", list(FEATURES))
def test_feature_counts_in_every_dimension(name: str) -> None:
    counts = variant_counts(name)
    assert tuple(counts[f"features_{dims}d"] for dims in (1, 2, 3)) == FEATURES[name]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((224, 224), (56, 28, 14, 7)),
        ((352, 352), (88, 44, 22, 11)),
        ((255, 255), (64, 32, 16, 8)),
        ((1, 1), (1, 1, 1, 1)),
    ],
)
def test_map_sizes_for_any_input(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        maps = build_backbone("poolformerv2_s12")(torch.empty(1, 3, *size))
    assert tuple(m.shape[2] for m in maps) == expected


def tiny(**changes: object) -> MetaFormer:
    settings: dict[str, object] = {
        "depths": (1, 1, 2, 1),
        "channels": (32, 32, 64, 64),
        "mixers": ("separable_conv", "pooling", "attention", "attention"),
    }
    torch.manual_seed(0)
    outside = {key: changes.pop(key) for key in ("init", "checkpointing") if key in changes}
    return MetaFormer(2, 3, Architecture(**{**settings, **changes}), **outside)  # type: ignore[arg-type]


def test_strides_differ_by_axis_for_anisotropic_voxels() -> None:
    backbone = MetaFormer(
        3,
        1,
        Architecture(["pooling"], depths=[1] * 4, channels=[32] * 4),
        strides=((1, 4, 4), (1, 2, 2), 2, 2),
        stem_kernel=(3, 7, 7),
    ).eval()
    maps = backbone(torch.randn(1, 1, 10, 64, 48))
    assert backbone.strides == ((1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32))
    assert [tuple(m.shape[2:]) for m in maps] == [(10, 16, 12), (10, 8, 6), (5, 4, 3), (3, 2, 2)]


def test_stochastic_depth_drops_whole_branches_per_sample_and_only_in_training() -> None:
    backbone = tiny(drop_path=0.5)
    x = torch.randn(2, 3, 32, 32)
    torch.manual_seed(1)
    assert not torch.allclose(backbone.train()(x)[-1], backbone(x)[-1])
    torch.testing.assert_close(backbone.eval()(x)[-1], backbone(x)[-1])
    rates = [block.drop_path.rate for stage in backbone.stages for block in stage.blocks]
    torch.testing.assert_close(rates, [0.0, 0.125, 0.25, 0.375, 0.5])


@pytest.mark.parametrize("block", ["sequential", "depthwise"])
def test_gradient_checkpointing_changes_memory_and_nothing_else(block: str) -> None:
    plain, saving = (tiny(block=block, checkpointing=wanted).train() for wanted in (False, True))
    x = torch.randn(2, 3, 32, 40)
    for model in (plain, saving):
        model(x)[-1].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    # Batch norms have counted the batch once.
    torch.testing.assert_close(dict(saving.named_buffers()), dict(plain.named_buffers()))


def test_the_affine_part_of_star_relu_folds_into_the_next_layer() -> None:
    mlp = tiny().stages[0].blocks[0].mlp
    with torch.no_grad():
        mlp.act.scale.fill_(0.8944)
        mlp.act.bias.fill_(-0.4472)
    x = torch.randn(2, 32, 5, 6)
    torch.testing.assert_close(mlp(x), mlp.fc2(mlp.act(mlp.fc1(x))))


def test_star_relu_matches_its_formula_with_and_without_gradients() -> None:
    act, x = StarReLU(), torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        act.scale.fill_(0.7)
        act.bias.fill_(0.2)
    expected = 0.7 * torch.relu(x) ** 2 + 0.2
    torch.testing.assert_close(act(x), expected)
    with torch.no_grad():
        kept = x.clone()
        torch.testing.assert_close(act(x), expected)
        assert torch.equal(x, kept)
    assert torch.autograd.gradcheck(squared_relu, (torch.randn(4, 3, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("gradients", [True, False])
def test_squares_of_float16_do_not_overflow(gradients: bool) -> None:
    x = torch.tensor([-3.0, 2.0, 255.0, 300.0, 60000.0]).half().requires_grad_(gradients)
    y = squared_relu(x)
    assert y.tolist() == [0.0, 4.0, 255.0**2, 300.0**2, float(torch.tensor(60000.0).half()) ** 2]
    if gradients:
        y.sum().backward()
        assert x.grad is not None and x.grad.dtype == torch.float16 and x.grad.tolist()[:4] == [0.0, 4.0, 510.0, 600.0]


def test_an_mlp_and_a_head_in_float16_compute_what_they_compute_in_float32() -> None:
    mlp, head = tiny().stages[0].blocks[0].mlp, MlpHead(32, 2)
    with torch.no_grad():
        mlp.act.bias.fill_(-0.4472)
        mlp.fc1.weight.mul_(2000)
        head.fc["fc1"].weight.mul_(2000)
    for module, x in ((mlp, torch.randn(2, 32, 5, 6)), (head, torch.randn(2, 32, 5, 6))):
        largest = mlp.fc1(x).max() if module is mlp else head.fc["fc1"](head.norm(x.mean((2, 3)))).max()
        assert largest > 256, "else nothing is shown"
        expected = module(x)
        with torch.autocast("cpu", torch.float16):
            found = module(x)
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 32, 32), "expected \\(batch, 3, H, W\\)"),
        ((3, 32, 32), "expected \\(batch, 3, H, W\\)"),
        ((1, 3, 0, 32), "no empty axis"),
    ],
)
def test_a_wrong_input_is_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(torch.randn(*shape))


def test_stage_lists_must_agree() -> None:
    with pytest.raises(ValueError, match="got 2 mixers, expected 1 for all stages, or 4"):
        tiny(mixers=("pooling", "pooling"))


def test_an_unknown_mixer_or_variant_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'attention'"):
        tiny(mixers=("attenton",) * 4)
    with pytest.raises(UnknownNameError, match="Did you mean 'caformer_s18'"):
        build_backbone("caformer_s81")


@pytest.mark.parametrize("name", ["poolformer_s12", "poolformerv2_s12", "caformer_s18"])
def test_classifiers_give_logits_at_any_size(name: str) -> None:
    model = build_classifier(name, num_classes=5).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 50, 33)).shape == (2, 5)


def test_every_variant_has_four_stages_or_is_a_plain_stack_of_blocks() -> None:
    assert all(len(v.part.depths) == len(v.part.channels) for v in VARIANTS.values())
    others = {name for name, v in VARIANTS.items() if len(v.part.depths) != 4}
    assert all(name.startswith("paramixer") and len(VARIANTS[name].part.depths) == 1 for name in others)


@pytest.mark.parametrize(("init", "low", "high"), [("published", 0.0, 0.1), ("fan_in", 0.2, 5.0)])
def test_first_weights_set_how_large_branches_are(init: str, low: float, high: float) -> None:
    backbone = tiny(depths=(2, 2, 2, 2), mixers=("separable_conv",) * 4, init=init, res_scale_from=None)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        skip = backbone.stem(x)
        _, branch = backbone.stages[0].blocks[0](skip)
    assert low < float(branch.std() / skip.std()) < high


def test_padding_is_no_vector_of_zeros_where_patches_are_normed() -> None:
    """Else a few blocks multiply its gradients beyond all bounds."""
    backbone = tiny(norm="layer", transition="patches", activation="gelu", res_scale_from=None)
    with torch.no_grad():
        behind = backbone.stem(torch.zeros(1, 3, 8, 8))
    assert float(behind.std(1).min()) > 0.9
