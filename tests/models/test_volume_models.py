from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medformer.config import VolumeConfig
from medformer.config.shared import MixerSpec, ModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.models.backbone.variants import build_backbone
from medformer.models.networks.build import NETWORKS, build_network
from medformer.models.networks.grid import Grid, kernel_note, padded_size
from medformer.models.networks.meta_unet import MetaUNet
from medformer.models.networks.peers import SupervisedDynUNet, nnunet_topology

ISOTROPIC = {"strides": ((2, 2, 2),) * 3 + ((1, 1, 1),), "kernel_sizes": ((3, 3, 3),) * 4}
# Thick slices along the last axis.
THICK = {"strides": ((2, 2, 1), (2, 2, 1), (2, 2, 2), (1, 1, 1)), "kernel_sizes": ((3, 3, 1),) * 2 + ((3, 3, 3),) * 2}


def build(
    name: str = "meta_unet", grid: dict[str, Any] = ISOTROPIC, *, channels: int = 1, classes: int = 3, **config: Any
) -> nn.Module:
    torch.manual_seed(0)
    spacing = (1.0, 1.0, 1.0 if grid is ISOTROPIC else 4.0)
    settings = VolumeConfig().model.model_copy(update={"name": name, **config})
    return build_network(settings, Grid(channels, classes, (32, 32, 16), spacing, **grid))


@pytest.mark.parametrize("grid", [ISOTROPIC, THICK], ids=["isotropic", "thick"])
@pytest.mark.parametrize("name", ["meta_unet", "meta_unet_fine", "monai:dynunet", "monai:unet"])
@pytest.mark.parametrize("size", [(32, 32, 16), (17, 30, 5), (1, 1, 1)])
def test_logits_have_the_input_size(name: str, grid: dict[str, Any], size: tuple[int, int, int]) -> None:
    with torch.no_grad():
        logits = build(name, grid, channels=2).eval()(torch.randn(1, 2, *size))
    assert logits.shape == (1, 3, *size)
    assert torch.isfinite(logits).all()


def test_swinunetr_takes_any_size() -> None:
    pytest.importorskip("einops")
    with torch.no_grad():
        assert build("monai:swinunetr").eval()(torch.randn(1, 1, 20, 33, 7)).shape == (1, 3, 20, 33, 7)


@pytest.mark.parametrize(
    ("name", "grid", "coarser"),
    [
        ("meta_unet", ISOTROPIC, [(17, 15, 7), (9, 8, 4)]),
        ("meta_unet", THICK, [(17, 15, 13), (9, 8, 13)]),
        ("monai:dynunet", ISOTROPIC, [(17, 15, 7)]),
        ("monai:segresnet_ds", ISOTROPIC, [(17, 15, 7), (9, 8, 4), (5, 4, 2)]),
        ("monai:segresnet_ds", THICK, [(17, 15, 13), (9, 8, 13), (5, 4, 7)]),
        ("monai:mednext", ISOTROPIC, [(17, 15, 7), (9, 8, 4), (5, 4, 2), (3, 2, 1)]),
    ],
)
def test_deep_supervision_adds_logits_on_their_own_grids_while_training_only(
    name: str, grid: dict[str, Any], coarser: list[tuple[int, ...]]
) -> None:
    # Shapes and where gradients go; no value is looked at.
    with torch.device("meta"):
        model, x = build(name, grid), torch.empty(2, 1, 33, 30, 13)
        outputs = model.train()(x)
        assert [tuple(level.shape[2:]) for level in outputs] == [(33, 30, 13), *coarser]
        sum(level.square().sum() for level in outputs).backward()
        assert [key for key, p in model.named_parameters() if p.grad is None] == []
        assert model.eval()(x).shape == (2, 3, 33, 30, 13)
        assert isinstance(build(name, grid, deep_supervision=False).train()(x), torch.Tensor)


@pytest.mark.parametrize("name", ["meta_unet", "monai:dynunet", "monai:unet"])
def test_a_sample_does_not_depend_on_the_others(name: str) -> None:
    model, x = build(name).train(), torch.randn(2, 1, 32, 24, 16)
    other = x.clone()
    other[1] = -other[1]
    with torch.no_grad():
        first, second = (y if isinstance(y, torch.Tensor) else y[0] for y in (model(x), model(other)))
        torch.testing.assert_close(first[0], second[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.eval()(x[:1])[0], first[0], atol=1e-3, rtol=1e-3)


def test_single_voxels_reach_the_result() -> None:
    """A stem of stride 2 alone cannot tell a shift by one voxel from one of its own making; the detail path can."""
    model = build().eval()
    assert isinstance(model, MetaUNet)
    x = torch.zeros(1, 1, 32, 32, 32)
    x[..., 16, 16, 16] = 5.0
    with torch.no_grad():
        logits = model(x)
        model.decoder.detail = None
        blurred = model(x)
    near = (slice(None), slice(None), slice(12, 20), slice(12, 20), slice(12, 20))

    def sharpness(y: torch.Tensor) -> float:
        centered = y[near] - y[near].mean((2, 3, 4), keepdim=True)
        return float(centered.diff(dim=2).square().sum() / centered.square().sum())

    assert sharpness(logits) > 2 * sharpness(blurred)


def test_thresholds_of_the_fine_decoder_are_spread_over_intensities() -> None:
    """Where all of them are the mean, nothing answers to the brightest voxels alone."""
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 8, 8, 32)

    def active(name: str) -> torch.Tensor:
        model = build(name)
        assert isinstance(model, MetaUNet) and model.decoder.detail is not None
        detail = model.decoder.detail
        inside = detail.norm1(detail.first(ramp))[..., 1:-1, 1:-1, 1:-1]
        return (inside > 0).float().mean((0, 2, 3, 4))

    assert active("meta_unet").sub(0.5).abs().max() < 0.15
    fine = active("meta_unet_fine")
    assert len(fine) == 32 and fine.min() < 0.2 and fine.max() > 0.8


def test_a_stem_of_stride_one_needs_no_detail() -> None:
    fine = {"strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)), "kernel_sizes": ((3, 3, 3),) * 4}
    model = build(grid=fine)
    assert isinstance(model, MetaUNet) and model.decoder.detail is None
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 1, 9, 16, 12)).shape == (1, 3, 9, 16, 12)


@pytest.mark.parametrize("name", ["convformer_v8", "poolformerv2_s12", "convformer_s18"])
def test_kernels_of_one_never_look_along_a_coarse_axis(name: str) -> None:
    flat = {"strides": ((2, 2, 1), (2, 2, 1), (2, 2, 1), (1, 1, 1)), "kernel_sizes": ((3, 3, 1),) * 4}
    with torch.device("meta"):
        model = build(grid=flat, backbone=name)
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert kernels and {kernel[2] for kernel in kernels} == {1}
    assert {kernel[:2] for kernel in kernels} <= {(3, 3), (1, 1), *([] if name == "convformer_v8" else [(7, 7)])}


@pytest.mark.parametrize(
    ("backbone", "stem", "mixer"),
    [("convformer_s18", 7, (7, 7, 7, 7)), ("convformer_t10", 3, (3, 3, 5, 3)), ("convformer_v8", 3, (3, 3, 3, 3))],
)
def test_a_plan_leaves_the_kernels_of_a_backbone_alone(backbone: str, stem: int, mixer: tuple[int, ...]) -> None:
    for grid, flat in ((ISOTROPIC, 0), (THICK, 2)):
        with torch.device("meta"):
            model = build(grid=grid, backbone=backbone)
        assert isinstance(model, MetaUNet)
        found = [stage.blocks[0].token_mixer for stage in model.backbone.stages]
        sizes = [(one.dwconv if hasattr(one, "dwconv") else one.conv).kernel_size for one in found]
        expected = [(k, k, 1 if stage < flat else k) for stage, k in enumerate(mixer)]
        assert sizes == expected
        first = next(m for m in model.backbone.stem.modules() if isinstance(m, nn.Conv3d))
        assert first.kernel_size == (stem, stem, 1 if flat else stem)


def test_kernels_that_are_not_the_planned_ones_are_said() -> None:
    grid = Grid(1, 3, (32, 32, 32), (1.0, 1.0, 4.0), **THICK)
    note = kernel_note(ModelConfig(backbone="convformer_s18"), grid)
    assert "convformer_s18 keeps its own kernels" in note and "7 x 7 x 1, 7 x 7 x 1, 7 x 7 x 1, 7 x 7 x 7" in note
    assert kernel_note(ModelConfig(backbone="convformer_v8"), grid) == ""


def test_the_network_can_be_sized_without_memory() -> None:
    with torch.device("meta"):
        model = build(classes=5).train()
        assert model(torch.empty(2, 1, 64, 64, 64))[0].shape == (2, 5, 64, 64, 64)


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    plain, saving = build().train(), build(checkpointing=True).train()
    x = torch.randn(2, 1, 16, 16, 16)
    for model in (plain, saving):
        model(x)[0].square().sum().backward()
    for one, two in zip(plain.parameters(), saving.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad)


def test_the_peer_is_monais_network() -> None:
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    strides = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    network = DynUNet(
        3, 1, 3, [3] * 4, strides, strides[1:], filters=[8, 16, 32, 32], deep_supervision=True, deep_supr_num=1
    ).train()
    x = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        theirs, ours = network(x), SupervisedDynUNet(network).train()(x)
    assert isinstance(ours, list)
    torch.testing.assert_close(ours[0], theirs[:, 0])
    torch.testing.assert_close(nn.functional.interpolate(ours[1], scale_factor=2), theirs[:, 1])


@pytest.mark.parametrize(
    ("patch", "spacing", "strides", "kernels"),
    [
        ((40, 56, 40), (1, 1, 1), [1, 2, 2, 2], [3, 3, 3, 3]),
        ((128, 128, 128), (1, 1, 1), [1, 2, 2, 2, 2, 2], [3] * 6),
        (
            (256, 256, 20),
            (0.6, 0.6, 3.0),
            [1, (2, 2, 1), (2, 2, 1), 2, 2, (2, 2, 1)],
            [(3, 3, 1), (3, 3, 1), 3, 3, 3, 3],
        ),
    ],
)
def test_topology_follows_nnunets_rule(
    patch: tuple[int, ...], spacing: tuple[float, ...], strides: list[Any], kernels: list[Any]
) -> None:
    expected = [[(v,) * 3 if isinstance(v, int) else v for v in side] for side in (strides, kernels)]
    assert list(nnunet_topology(patch, spacing)) == expected


def test_the_peer_has_nnunets_widths() -> None:
    with torch.device("meta"):
        model = build_network(ModelConfig(name="monai:dynunet"), Grid(1, 3, (128, 128, 128)))
    assert {p.shape[0] for p in model.parameters() if p.dim() == 5} >= {32, 64, 128, 256, 320}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "meta_unett"}, "Did you mean 'meta_unet'"),
        ({"name": "monai:swinunet"}, "Did you mean 'monai:swinunetr'"),
        ({"backbone": "convformer_v9"}, "Did you mean 'convformer_v8'"),
    ],
)
def test_unknown_names_give_the_nearest(config: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        build(**config)


def test_a_plan_for_another_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 strides, expected one entry for each stage"):
        build(grid={**ISOTROPIC, "strides": ((2, 2, 2),) * 3})
    with pytest.raises(ConfigError, match="can be halved 1 times"):
        build_network(ModelConfig(name="monai:dynunet"), Grid(1, 2, (8, 8, 8)))


def test_a_backbone_of_one_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"paramixer32_s gives 1 map, .*Choose another backbone"):
        build(backbone="paramixer32_s")


@pytest.mark.parametrize(
    ("mixers", "words"),
    [
        (("pooling",) * 2, "model.mixers: got 2 mixers, expected 1 for all stages, or 4"),
        (({"heads": 4},), r"model.mixers: got .*heads.*, expected a name"),
        (({"name": "pooling", "kernel_size": "x"},), "pooling takes kernel_size .*kernel_size: got"),
    ],
)
def test_mixers_that_make_no_sense_are_refused_in_words(mixers: tuple[MixerSpec, ...], words: str) -> None:
    """Of a backbone whose mixers have kernels of their own."""
    with pytest.raises(ConfigError, match=words):
        build(backbone="convformer_s18", mixers=mixers)


@pytest.mark.parametrize("grid", [ISOTROPIC, THICK], ids=["isotropic", "thick"])
def test_published_weights_fit_where_they_are_named(grid: dict[str, Any], tmp_path: Any) -> None:
    from safetensors.torch import save_file

    from medformer.models.weights.loading import load_pretrained

    save_file(build_backbone("poolformerv2_s12").state_dict(), tmp_path / "w.safetensors")
    model = build(grid=grid, backbone="poolformerv2_s12", weights=str(tmp_path / "w.safetensors"))
    assert isinstance(model, MetaUNet)
    assert not load_pretrained(model.backbone, tmp_path / "w.safetensors")


@pytest.mark.parametrize(("backbone", "kernel"), [("poolformerv2_s12", 3), ("convformer_s18", 7)])
def test_a_mixer_has_the_kernel_that_it_was_published_with(backbone: str, kernel: int) -> None:
    """But on axes where the plan looks at single positions; the file itself is not read to build the network."""
    five = {"strides": THICK["strides"], "kernel_sizes": ((5, 5, 1),) * 4}
    with torch.device("meta"):
        model = build(grid=five, backbone=backbone)
    assert isinstance(model, MetaUNet)
    mixer = model.backbone.stages[0].blocks[0].token_mixer
    assert (mixer.dwconv if hasattr(mixer, "dwconv") else mixer).kernel_size == (kernel, kernel, 1)


def test_swinunetr_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medformer.models.networks.peers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install einops"):
        build("monai:swinunetr")


def test_every_model_says_what_it_is() -> None:
    volumes = {name for name, entry in NETWORKS.items() if "3-D" not in entry.cannot}
    assert volumes >= {"meta_unet", "meta_unet_fine", "monai:dynunet", "monai:swinunetr", "monai:unet"}
    assert all(entry.description for entry in NETWORKS.values())


def test_what_a_network_pads_its_input_to_is_known() -> None:
    with torch.device("meta"):
        found = {name: build(name) for name in ("meta_unet", "plsnet", "monai:mednext")}
        whole = build_network(ModelConfig(backbone="convformer_c8"), Grid(1, 2, (17, 30, 5)), target="classification")
    sizes = {name: padded_size(network, (17, 30, 5)) for name, network in found.items()}
    assert sizes == {"meta_unet": (24, 32, 8), "plsnet": (24, 32, 8), "monai:mednext": (32, 32, 16)}
    assert padded_size(found["monai:mednext"], (16, 16, 16)) == (32, 16, 16), "instance norm needs two positions"
    assert padded_size(whole, (17, 30, 5)) == (17, 30, 5)
