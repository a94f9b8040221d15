"""Named MetaFormers: the published variants as rows of a table, and the classification heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medformer.config.shared import MixerSpec
from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Architecture, Backbone, BlockName, InitName, init_published
from medformer.models.backbone.heads import Classifier, HeadName, make_head
from medformer.models.backbone.layers import KernelSize
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.timm_metaformer import TimmMetaFormer
from medformer.registry import Entry, Registry


@dataclass(frozen=True)
class Variant(Architecture):
    """One named backbone with the head of its paper; `drop_path` is that of the published ImageNet training.

    Attributes:
        head: Of the classifier.
        encoder: The network of timm whose maps its blocks work on; empty for a MetaFormer from the image on.
        narrowed: Whether these maps are narrowed to `channels` first; otherwise `channels` are those of the network.
    """

    head: HeadName = "linear"
    encoder: str = ""
    narrowed: bool = True


_V1 = "Yu et al., MetaFormer Is Actually What You Need for Vision, CVPR 2022"
_V2 = "Yu et al., MetaFormer Baselines for Vision, TPAMI 2024"
_FFT = "Tatsunami and Taki, FFT-Based Dynamic Token Mixer for Vision, AAAI 2024"
_SHVIT_PAPER, _HIDDEN = "Yun and Ro, SHViT, CVPR 2024", "Lee et al., EfficientViM, CVPR 2025"
_FOCAL = "Yang et al., Focal Modulation Networks, NeurIPS 2022"

# Depths and channels of each size.
_Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
_POOL: _Shapes = {
    "s12": ((2, 2, 6, 2), (64, 128, 320, 512)),
    "s24": ((4, 4, 12, 4), (64, 128, 320, 512)),
    "s36": ((6, 6, 18, 6), (64, 128, 320, 512)),
    "m36": ((6, 6, 18, 6), (96, 192, 384, 768)),
    "m48": ((8, 8, 24, 8), (96, 192, 384, 768)),
}
_CONV: _Shapes = {
    "s18": ((3, 3, 9, 3), (64, 128, 320, 512)),
    "s36": ((3, 12, 18, 3), (64, 128, 320, 512)),
    "m36": ((3, 12, 18, 3), (96, 192, 384, 576)),
    "b36": ((3, 12, 18, 3), (128, 256, 512, 768)),
}
_FOCALNET: _Shapes = {
    "tiny": ((2, 2, 6, 2), (96, 192, 384, 768)),
    "small": ((2, 2, 18, 2), (96, 192, 384, 768)),
    "base": ((2, 2, 18, 2), (128, 256, 512, 1024)),
}
# A map of the stem, then three stages.
_SHVIT: _Shapes = {
    "s1": ((0, 2, 4, 5), (64, 128, 224, 320)),
    "s2": ((0, 2, 4, 5), (64, 128, 308, 448)),
    "s3": ((0, 3, 5, 5), (96, 192, 352, 448)),
    "s4": ((0, 4, 7, 6), (112, 224, 336, 448)),
}
_SHVIT_ATTENDING = {"s1": (48, 68), "s2": (66, 96), "s3": (75, 96), "s4": (72, 96)}
_EFFICIENTVIM: _Shapes = {
    "m1": ((0, 2, 2, 2), (64, 128, 192, 320)),
    "m2": ((0, 2, 2, 2), (64, 128, 256, 512)),
    "m3": ((0, 2, 2, 2), (112, 224, 320, 512)),
    "m4": ((0, 3, 4, 2), (112, 224, 320, 512)),
}
_EFFICIENTVIM_STATES = {"m1": (49, 25, 9), "m2": (49, 25, 9), "m3": (49, 25, 9), "m4": (64, 32, 16)}
_PARAMIXER: _Shapes = {"s": ((8,), (512,)), "b": ((12,), (768,)), "l": ((24,), (1024,))}


def _family(
    name: str,
    description: str,
    paper: str,
    shared: Variant,
    shapes: _Shapes,
    drop_paths: Sequence[float],
    layer_scales: Sequence[float | None] = (),
) -> list[Entry[Variant]]:
    """Return a row for each size of a family: what all share, with the depths, widths and rates of the size."""
    rows, columns = [], (drop_paths, layer_scales or [None] * len(shapes))
    for (size, (depths, channels)), rate, scale in zip(shapes.items(), *columns, strict=True):
        variant = replace(shared, depths=depths, channels=channels, drop_path=rate, layer_scale=scale)
        rows.append(Entry(f"{name}_{size}", variant, description, paper))
    return rows


def _focalnets(reach: str, levels: str, shared: Variant) -> list[Entry[Variant]]:
    rows = _family("focalnet", f"focal modulation of {levels} levels", _FOCAL, shared, _FOCALNET, (0.2, 0.3, 0.5))
    return [replace(row, name=f"{row.name}_{reach}") for row in rows]


def _shvit() -> list[Entry[Variant]]:
    rows = _family("shvit", "one attention head on a part of the channels", _SHVIT_PAPER, _STEPS, _SHVIT, (0.0,) * 4)
    return [
        replace(row, part=replace(row.part, mixers=("identity", "identity", *(_single_head(n) for n in widths))))
        for row, widths in zip(rows, _SHVIT_ATTENDING.values(), strict=True)
    ]


def _single_head(attending: int) -> MixerSpec:
    return {"name": "single_head_attention", "attending": attending, "batch_norm": True}


def _efficientvim() -> list[Entry[Variant]]:
    shared = replace(_STEPS, block="gated", mlp_ratio=4.0, head="linear")
    about = "mixing in a few hidden states; the published classifier reads these states, this one the last map"
    rows = _family("efficientvim", about, _HIDDEN, shared, _EFFICIENTVIM, (0.0,) * 4)
    return [
        replace(row, part=replace(row.part, mixers=("identity", *(_hidden_state(n) for n in states))))
        for row, states in zip(rows, _EFFICIENTVIM_STATES.values(), strict=True)
    ]


def _hidden_state(states: int) -> MixerSpec:
    return {"name": "hidden_state", "states": states}


def _focal(levels: int) -> MixerSpec:
    return {"name": "focal_modulation", "levels": levels}


_STEPS = Variant(
    ("identity",) * 4,
    "layer",
    res_scale_from=None,
    transition="inverted",
    mlp_ratio=2.0,
    block="depthwise",
    strides=(8, 2, 2, 2),
    head="batch_norm",
)
_POOLFORMER = Variant(
    ("pooling",) * 4, "group", activation="gelu", res_scale_from=None, transition="bare", head="pool_after_norm"
)
_POOLFORMER_V2, _IDENTITYFORMER = Variant(("pooling",) * 4, "map"), Variant(("identity",) * 4, "map")
_RANDFORMER = Variant(("identity", "identity", "random", "random"), "map")
_CONVFORMER = Variant(("separable_conv",) * 4, "channel", head="mlp")
_CAFORMER = Variant(("separable_conv", "separable_conv", "attention", "attention"), "channel", head="mlp")
_DFFORMER = Variant(("dynamic_filter",) * 4, "channel", head="mlp")
_CDFFORMER = Variant(("separable_conv", "separable_conv", "dynamic_filter", "dynamic_filter"), "channel", head="mlp")
_GFFORMER = Variant(("global_filter",) * 4, "channel", head="mlp")
_FOCAL_SHORT = Variant(
    (_focal(2),) * 4,
    "layer",
    activation="gelu",
    res_scale_from=None,
    transition="patches",
    head="pool_after_layer_norm",
)
# Published for 224 px; of its single map only a classifier can make something.
_PATCHES16 = Variant(
    ("token_mlp",),
    "joint",
    activation="plain_gelu",
    res_scale_from=None,
    transition="bare_patches",
    block="parallel",
    strides=(16,),
    head="pool_after_layer_norm",
)
_FOCAL_LONG = replace(_FOCAL_SHORT, mixers=(_focal(3),) * 4)
# Ours, for training from scratch on little data: plain convolutions where maps are fine and channels few, separable
# ones below, small kernels for small inputs, a stem of small ones, and norms of each image's own channels.
_VOLUMES = Variant(
    ("convolution", "convolution", "separable_conv", "separable_conv"),
    "instance",
    (2, 2, 2, 2),
    (32, 64, 128, 256),
    kernel_sizes=(3, 3, 3, 3),
    stem="convolutions",
    mlp_ratio=2.0,
    head="mlp",
)
_IMAGES = replace(
    _VOLUMES, depths=(2, 2, 4, 2), channels=(64, 128, 256, 384), drop_path=0.05, kernel_sizes=(3, 3, 5, 3)
)
# Instance norm takes each image's own mean from every channel, and with it most of what the average over all positions
# could tell; and from scratch, on a few hundred volumes, these averages differ so little between images that a head
# learns nothing from them until batch norm has taken away what they share.
_CLASSES = replace(_VOLUMES, norm="channel", head="pool_after_batch_norm")
_OURS = "plain convolutions on fine maps, then separable ones, for"
# Behind a network of timm: its maps are narrowed, separable convolutions work on stride 16 and attention on stride 32,
# where it is cheap. The mixers of the two fine levels are for decoders that mix tokens.
_BEHIND = Variant(
    ("separable_conv", "separable_conv", "separable_conv", "attention"),
    "channel",
    (0, 0, 1, 1),
    (64, 128, 256, 384),
    kernel_sizes=(3, 3, 5, None),
    res_scale_from=None,
    mlp_ratio=2.0,
)
_LITE0 = replace(_BEHIND, channels=(32, 64, 128, 256), encoder="tf_efficientnet_lite0")
# The encoder of PraNet, Res2Net-50-v1b-26w-4s, and nothing behind it.
_RES2NET = replace(_BEHIND, depths=(0, 0, 0, 0), channels=(256, 512, 1024, 2048), encoder="res2net50d", narrowed=False)
_ON_TIMM = dict.fromkeys(("1-D", "3-D"), "timm's networks are two-dimensional. Set model.backbone=convformer_v8.")
_PARA, _BOTH = "Ota and Taki, ParaMixer, 2024", "MLPs over positions and over channels beside each other, patches"
_RATES, _SCALES = (0.1, 0.1, 0.2, 0.3, 0.4), (1e-5, 1e-5, 1e-6, 1e-6, 1e-6)
# Published is that of s18; the others are those of ConvFormer, whose widths and depths these networks have.
_FILTER_RATES = (0.2, 0.3, 0.4, 0.6)

VARIANTS: Registry[Variant] = Registry(
    "backbone",
    [
        *_family("poolformer", "pooling, GroupNorm, GELU", _V1, _POOLFORMER, _POOL, _RATES, _SCALES),
        *_family("poolformerv2", "pooling with the later recipe", _V2, _POOLFORMER_V2, _POOL, _RATES),
        *_family("identityformer", "no token mixing", _V2, _IDENTITYFORMER, _POOL, _RATES),
        *_family(
            "randformer",
            "frozen random mixing in the last two stages",
            _V2,
            _RANDFORMER,
            _POOL,
            (*_RATES[:4], 0.3),
        ),
        *_family("convformer", "separable convolutions", _V2, _CONVFORMER, _CONV, (0.2, 0.3, 0.4, 0.6)),
        *_family("caformer", "separable convolutions, then attention", _V2, _CAFORMER, _CONV, (0.15, 0.3, 0.4, 0.6)),
        *_family("dfformer", "dynamic frequency filters", _FFT, _DFFORMER, _CONV, _FILTER_RATES),
        *_family("cdfformer", "separable convolutions, then dynamic filters", _FFT, _CDFFORMER, _CONV, _FILTER_RATES),
        *_family("gfformer", "a frequency filter for each channel", _FFT, _GFFORMER, {"s18": _CONV["s18"]}, (0.2,)),
        *_focalnets("srf", "two", _FOCAL_SHORT),
        *_focalnets("lrf", "three", _FOCAL_LONG),
        *_shvit(),
        *_efficientvim(),
        *_family("paramixer16", f"{_BOTH} of 16 px", _PARA, _PATCHES16, _PARAMIXER, (0.1,) * 3),
        *_family("paramixer32", f"{_BOTH} of 32 px", _PARA, replace(_PATCHES16, strides=(32,)), _PARAMIXER, (0.1,) * 3),
        Entry("convformer_t10", _IMAGES, f"{_OURS} segmentation"),
        Entry("convformer_v8", _VOLUMES, f"{_OURS} segmentation"),
        Entry("convformer_c8", _CLASSES, f"{_OURS} classification"),
        Entry(
            "lite0_metaformer",
            _LITE0,
            "EfficientNet-Lite0 of timm, MetaFormer blocks on its two coarsest maps",
            "Tan and Le, ICML 2019",
            "2-D",
            _ON_TIMM,
        ),
        Entry(
            "res2net50d",
            _RES2NET,
            "Res2Net-50 (v1b, 26w, 4s) of timm as it is, without blocks",
            "Gao et al., TPAMI 2021",
            "2-D",
            _ON_TIMM | {"model.mixers": "it has no blocks whose tokens mix. Set model.mixers=null."},
        ),
        Entry(
            "timm:<name>",
            _BEHIND,
            "any network of timm with maps at strides 4 to 32, MetaFormer blocks on its two coarsest maps",
            sizes="2-D; what the network allows",
            cannot=_ON_TIMM,
            example="timm:test_efficientnet",
        ),
    ],
)


def encoder_name(name: str) -> str:
    """Return the network of timm that a named backbone stands on; empty for one that has none."""
    prefix, _, model = name.partition(":")
    return model if prefix == "timm" else VARIANTS[name].part.encoder


def build_backbone(
    name: str,
    *,
    spatial_dims: int = 2,
    in_channels: int = 3,
    mixers: Sequence[MixerSpec] | None = None,
    drop_path: float | None = None,
    kernel_sizes: Sequence[KernelSize | None] | None = None,
    stem_kernel: KernelSize | None = None,
    strides: Sequence[int | Sequence[int]] | None = None,
    init: InitName = "published",
    checkpointing: bool = False,
    frozen: int = 0,
    block: BlockName | None = None,
    mlp_ratio: float | None = None,
    asymmetry: float | None = None,
) -> Backbone:
    """Return a named backbone; what is None of the parts of an `Architecture` is the variant's own.

    Raises:
        UnknownNameError: No variant or mixer has that name; the nearest is suggested.
        ConfigError: The backbone does not exist in this number of dimensions, or has no levels that could be frozen, or
            no mixers that could be others.
    """
    given: dict[str, Any] = {
        "mixers": mixers,
        "drop_path": drop_path,
        "kernel_sizes": kernel_sizes,
        "block": block,
        "mlp_ratio": mlp_ratio,
        "asymmetry": asymmetry,
    }
    variant = VARIANTS.require(name, f"{spatial_dims}-D", *(["model.mixers"] if mixers is not None else [])).part
    architecture = replace(variant, **{key: value for key, value in given.items() if value is not None})
    if encoder := encoder_name(name):
        return TimmMetaFormer(
            encoder,
            in_channels,
            architecture,
            init=init,
            checkpointing=checkpointing,
            frozen=frozen,
            narrowed=variant.narrowed,
        )
    if frozen:
        raise ConfigError(
            f"model.frozen={frozen} keeps levels of a network of timm, and {name} has none. Set model.frozen=0, or a "
            "backbone on such a network, such as lite0_metaformer."
        )
    return MetaFormer(
        spatial_dims,
        in_channels,
        architecture,
        stem_kernel=stem_kernel,
        strides=strides,
        init=init,
        checkpointing=checkpointing,
    )


def build_classifier(name: str, num_classes: int = 1000, *, drop_path: float | None = None) -> Classifier:
    """Return a named backbone with the head of its paper (linear or MLP), weights initialized as published."""
    return with_head(build_backbone(name, drop_path=drop_path), name, num_classes)


def with_head(backbone: Backbone, name: str, num_classes: int) -> Classifier:
    """Return a backbone of the named variant with the head of its paper."""
    head = make_head(VARIANTS[name].part.head, backbone.channels[-1], num_classes)
    return Classifier(backbone, head.apply(init_published))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def variant_counts(name: str) -> dict[str, int]:
    """Count a variant's parameters: `classifier` (1000 classes), `features_1d`, `_2d`, `_3d` (1, 3, 1 input channels).

    Dimensions in which it does not exist are left out. Built on the meta device: no memory is touched and no weight is
    drawn.
    """
    with torch.device("meta"):
        of_images = build_backbone(name)
        counts = {"classifier": count_parameters(with_head(of_images, name, 1000))}
        for dims, channels in ((1, 1), (2, 3), (3, 1)):
            if f"{dims}-D" in VARIANTS[name].cannot:
                continue
            backbone = of_images if dims == 2 else build_backbone(name, spatial_dims=dims, in_channels=channels)
            counts[f"features_{dims}d"] = count_parameters(backbone)
    return counts
