"""Named MetaFormers: the published variants as rows of a table, and the classification heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medformer.config.shared import MixerSpec
from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Architecture, Backbone, InitName, init_published
from medformer.models.backbone.layers import KernelSize, squared_relu
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.timm_metaformer import TimmMetaFormer
from medformer.registry import Entry, Registry

HeadName = Literal["linear", "mlp", "pool_after_norm", "pool_after_batch_norm"]


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


_POOLFORMER = Variant(
    ("pooling",) * 4, "group", activation="gelu", res_scale_from=None, transition_norm=False, head="pool_after_norm"
)
_POOLFORMER_V2, _IDENTITYFORMER = Variant(("pooling",) * 4, "map"), Variant(("identity",) * 4, "map")
_RANDFORMER = Variant(("identity", "identity", "random", "random"), "map")
_CONVFORMER = Variant(("separable_conv",) * 4, "channel", head="mlp")
_CAFORMER = Variant(("separable_conv", "separable_conv", "attention", "attention"), "channel", head="mlp")
_DFFORMER = Variant(("dynamic_filter",) * 4, "channel", head="mlp")
_CDFFORMER = Variant(("separable_conv", "separable_conv", "dynamic_filter", "dynamic_filter"), "channel", head="mlp")
_GFFORMER = Variant(("global_filter",) * 4, "channel", head="mlp")
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
) -> Backbone:
    """Return a named backbone; `mixers`, `drop_path` and `kernel_sizes` None take the variant's own.

    Raises:
        UnknownNameError: No variant or mixer has that name; the nearest is suggested.
        ConfigError: The backbone does not exist in this number of dimensions, or has no levels that could be frozen, or
            no mixers that could be others.
    """
    given: dict[str, Any] = {"mixers": mixers, "drop_path": drop_path, "kernel_sizes": kernel_sizes}
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


class LinearHead(nn.Module):
    """Average pool, LayerNorm, linear; or, with a norm for maps `(B, C, N)`, that norm, average pool, linear."""

    def __init__(self, channels: int, num_classes: int, *, map_norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm_first = map_norm is not None
        self.norm = nn.LayerNorm(channels, eps=1e-6) if map_norm is None else map_norm
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        pooled = self.norm(x).mean(-1) if self.norm_first else self.norm(x.mean(-1))
        logits: Tensor = self.fc(pooled)
        return logits


class MlpHead(nn.Module):
    """Average pool, LayerNorm, Linear C->4C, squared ReLU, LayerNorm, linear (ConvFormer, CAFormer)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.ModuleDict(
            {
                "fc1": nn.Linear(channels, 4 * channels),
                "norm": nn.LayerNorm(4 * channels),
                "fc2": nn.Linear(4 * channels, num_classes),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc["norm"](squared_relu(self.fc["fc1"](self.norm(x.flatten(2).mean(-1)))))
        logits: Tensor = self.fc["fc2"](hidden)
        return logits


_MAP_NORMS: dict[HeadName, Callable[[int], nn.Module]] = {
    "pool_after_norm": partial(nn.GroupNorm, 1, eps=1e-5),
    "pool_after_batch_norm": nn.BatchNorm1d,
}


class Classifier(nn.Module):
    """A backbone with its published classification head: `(B, C, *S) -> (B, num_classes)` logits."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x)[-1])
        return logits


def build_classifier(name: str, num_classes: int = 1000, *, drop_path: float | None = None) -> Classifier:
    """Return a named backbone with the head of its paper (linear or MLP), weights initialized as published."""
    return with_head(build_backbone(name, drop_path=drop_path), name, num_classes)


def with_head(backbone: Backbone, name: str, num_classes: int) -> Classifier:
    """Return a backbone of the named variant with the head of its paper."""
    kind, channels = VARIANTS[name].part.head, backbone.channels[-1]
    head: nn.Module
    if kind == "mlp":
        head = MlpHead(channels, num_classes)
    else:
        map_norm = _MAP_NORMS[kind](channels) if kind in _MAP_NORMS else None
        head = LinearHead(channels, num_classes, map_norm=map_norm)
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
        counts = {"classifier": count_parameters(build_classifier(name))}
        for dims, channels in ((1, 1), (2, 3), (3, 1)):
            if f"{dims}-D" in VARIANTS[name].cannot:
                continue
            counts[f"features_{dims}d"] = count_parameters(
                build_backbone(name, spatial_dims=dims, in_channels=channels)
            )
    return counts
