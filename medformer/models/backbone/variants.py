"""Named MetaFormers: the published variants as rows of a table, and the two classification heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from medformer.errors import UnknownNameError
from medformer.models.backbone.layers import KernelSize, NormName, squared_relu
from medformer.models.backbone.metaformer import InitName, MetaFormer, StemName, init_published


@dataclass(frozen=True)
class Family:
    """What all sizes of a family share."""

    description: str
    paper: str
    mixers: tuple[str, str, str, str]
    norm: NormName
    activation: Literal["star_relu", "gelu"] = "star_relu"
    res_scale_from: int | None = 2
    transition_norm: bool = True
    head: Literal["linear", "mlp", "pool_after_norm", "pool_after_batch_norm"] = "linear"
    drop_path: tuple[float, ...] = (0.1, 0.1, 0.2, 0.3, 0.4)
    """Stochastic depth of the published ImageNet training, one rate for each size."""


@dataclass(frozen=True)
class Variant:
    """One named backbone."""

    family: Family
    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    drop_path: float
    layer_scale: float | None = None
    kernel_sizes: tuple[int | None, ...] | None = None
    stem: StemName = "patch"
    mlp_ratio: float = 4.0


_V1 = "Yu et al., MetaFormer Is Actually What You Need for Vision, CVPR 2022"
_V2 = "Yu et al., MetaFormer Baselines for Vision, TPAMI 2024"

FAMILIES: dict[str, Family] = {
    "poolformer": Family(
        "pooling, GroupNorm, GELU",
        _V1,
        ("pooling",) * 4,
        "group",
        activation="gelu",
        res_scale_from=None,
        transition_norm=False,
        head="pool_after_norm",
    ),
    "poolformerv2": Family("pooling with the later recipe", _V2, ("pooling",) * 4, "map"),
    "identityformer": Family("no token mixing", _V2, ("identity",) * 4, "map"),
    "randformer": Family(
        "frozen random mixing in the last two stages",
        _V2,
        ("identity", "identity", "random", "random"),
        "map",
        drop_path=(0.1, 0.1, 0.2, 0.3, 0.3),
    ),
    "convformer": Family(
        "separable convolutions",
        _V2,
        ("separable_conv",) * 4,
        "channel",
        head="mlp",
        drop_path=(0.2, 0.3, 0.4, 0.6),
    ),
    "caformer": Family(
        "separable convolutions, then attention",
        _V2,
        ("separable_conv", "separable_conv", "attention", "attention"),
        "channel",
        head="mlp",
        drop_path=(0.15, 0.3, 0.4, 0.6),
    ),
}

_Shape = tuple[tuple[int, int, int, int], tuple[int, int, int, int]]
_POOL_SHAPES: dict[str, _Shape] = {
    "s12": ((2, 2, 6, 2), (64, 128, 320, 512)),
    "s24": ((4, 4, 12, 4), (64, 128, 320, 512)),
    "s36": ((6, 6, 18, 6), (64, 128, 320, 512)),
    "m36": ((6, 6, 18, 6), (96, 192, 384, 768)),
    "m48": ((8, 8, 24, 8), (96, 192, 384, 768)),
}
_CONV_SHAPES: dict[str, _Shape] = {
    "s18": ((3, 3, 9, 3), (64, 128, 320, 512)),
    "s36": ((3, 12, 18, 3), (64, 128, 320, 512)),
    "m36": ((3, 12, 18, 3), (96, 192, 384, 576)),
    "b36": ((3, 12, 18, 3), (128, 256, 512, 768)),
}
_LAYER_SCALE = {"s12": 1e-5, "s24": 1e-5, "s36": 1e-6, "m36": 1e-6, "m48": 1e-6}


def _table() -> dict[str, Variant]:
    table = {}
    for name, family in FAMILIES.items():
        shapes = _CONV_SHAPES if family.head == "mlp" else _POOL_SHAPES
        for (size, (depths, channels)), rate in zip(shapes.items(), family.drop_path, strict=True):
            scale = _LAYER_SCALE[size] if name == "poolformer" else None
            table[f"{name}_{size}"] = Variant(family, depths, channels, rate, scale)
    return table


VARIANTS: dict[str, Variant] = _table()
# Ours, for training from scratch on little data: plain convolutions where maps are fine and channels few, separable
# ones below, small kernels for small inputs, a stem of small ones, and norms of each image's own channels.
_FROM_SCRATCH = Family(
    "plain convolutions on fine maps, then separable ones, for segmentation",
    "",
    ("convolution", "convolution", "separable_conv", "separable_conv"),
    "instance",
    head="mlp",
)
# For images.
VARIANTS["convformer_t10"] = Variant(
    _FROM_SCRATCH,
    (2, 2, 4, 2),
    (64, 128, 256, 384),
    drop_path=0.05,
    kernel_sizes=(3, 3, 5, 3),
    stem="convolutions",
    mlp_ratio=2.0,
)
# For volumes.
VARIANTS["convformer_v8"] = Variant(
    _FROM_SCRATCH,
    (2, 2, 2, 2),
    (32, 64, 128, 256),
    drop_path=0.0,
    kernel_sizes=(3, 3, 3, 3),
    stem="convolutions",
    mlp_ratio=2.0,
)
# For classes of whole volumes. Instance norm takes each image's own mean from every channel, and with it most
# of what the average over all positions could tell; and from scratch, on a few hundred volumes, these averages differ
# so little between images that a head learns nothing from them until batch norm has taken away what they share.
VARIANTS["convformer_c8"] = replace(
    VARIANTS["convformer_v8"],
    family=replace(
        _FROM_SCRATCH,
        description="plain convolutions on fine maps, then separable ones, for classification",
        norm="channel",
        head="pool_after_batch_norm",
    ),
)


def build_backbone(
    name: str,
    *,
    spatial_dims: int = 2,
    in_channels: int = 3,
    drop_path: float | None = None,
    kernel_sizes: Sequence[KernelSize | None] | None = None,
    stem_kernel: KernelSize | None = None,
    strides: Sequence[int | Sequence[int]] | None = None,
    init: InitName = "published",
    checkpointing: bool = False,
) -> MetaFormer:
    """Return a named backbone; `drop_path` and `kernel_sizes` None take the variant's own.

    Raises:
        UnknownNameError: No variant has that name; the nearest is suggested.
    """
    if name not in VARIANTS:
        raise UnknownNameError("backbone", name, VARIANTS)
    variant = VARIANTS[name]
    family = variant.family
    return MetaFormer(
        spatial_dims,
        in_channels,
        depths=variant.depths,
        channels=variant.channels,
        mixers=family.mixers,
        kernel_sizes=kernel_sizes or variant.kernel_sizes,
        norm=family.norm,
        activation=family.activation,
        mlp_ratio=variant.mlp_ratio,
        layer_scale=variant.layer_scale,
        res_scale_from=family.res_scale_from,
        transition_norm=family.transition_norm,
        stem=variant.stem,
        stem_kernel=stem_kernel,
        strides=strides,
        drop_path=variant.drop_path if drop_path is None else drop_path,
        init=init,
        checkpointing=checkpointing,
    )


class LinearHead(nn.Module):
    """Average pool, LayerNorm, linear; or, with a norm for maps `(B, C, N)`, that norm, average pool, linear."""

    def __init__(
        self, channels: int, num_classes: int, *, map_norm: nn.Module | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_first = map_norm is not None
        self.norm = nn.LayerNorm(channels, eps=1e-6) if map_norm is None else map_norm
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        pooled = self.norm(x).mean(-1) if self.norm_first else self.norm(x.mean(-1))
        logits: Tensor = self.fc(self.dropout(pooled))
        return logits


class MlpHead(nn.Module):
    """Average pool, LayerNorm, Linear C->4C, squared ReLU, LayerNorm, dropout, linear (ConvFormer, CAFormer)."""

    def __init__(self, channels: int, num_classes: int, *, dropout: float = 0.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.ModuleDict(
            {
                "fc1": nn.Linear(channels, 4 * channels),
                "norm": nn.LayerNorm(4 * channels, eps=eps),
                "fc2": nn.Linear(4 * channels, num_classes),
            }
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc["norm"](squared_relu(self.fc["fc1"](self.norm(x.flatten(2).mean(-1)))))
        logits: Tensor = self.fc["fc2"](self.dropout(hidden))
        return logits


class Classifier(nn.Module):
    """A backbone with its published classification head: `(B, C, *S) -> (B, num_classes)` logits."""

    def __init__(self, backbone: MetaFormer, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x)[-1])
        return logits


def build_classifier(
    name: str,
    num_classes: int = 1000,
    *,
    spatial_dims: int = 2,
    in_channels: int = 3,
    drop_path: float | None = None,
    head_dropout: float = 0.0,
) -> Classifier:
    """Return a named backbone with the head of its paper (linear or MLP), weights initialized as published."""
    backbone = build_backbone(name, spatial_dims=spatial_dims, in_channels=in_channels, drop_path=drop_path)
    return with_head(backbone, name, num_classes, head_dropout)


def with_head(backbone: MetaFormer, name: str, num_classes: int, head_dropout: float = 0.0) -> Classifier:
    """Return a backbone of the named variant with the head of its paper."""
    kind, channels = VARIANTS[name].family.head, backbone.channels[-1]
    head: nn.Module
    if kind == "mlp":
        head = MlpHead(channels, num_classes, dropout=head_dropout)
    else:
        map_norm: nn.Module | None = None
        if kind == "pool_after_norm":
            map_norm = nn.GroupNorm(1, channels, eps=1e-5)
        elif kind == "pool_after_batch_norm":
            map_norm = nn.BatchNorm1d(channels)
        head = LinearHead(channels, num_classes, map_norm=map_norm, dropout=head_dropout)
    return Classifier(backbone, head.apply(init_published))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def variant_counts(name: str) -> dict[str, int]:
    """Count a variant's parameters: `classifier` (1000 classes), `features_1d`, `_2d`, `_3d` (1, 3, 1 input channels).

    Built on the meta device: no memory is touched and no weight is drawn.
    """
    with torch.device("meta"):
        counts = {"classifier": count_parameters(build_classifier(name))}
        for dims, channels in ((1, 1), (2, 3), (3, 1)):
            counts[f"features_{dims}d"] = count_parameters(
                build_backbone(name, spatial_dims=dims, in_channels=channels)
            )
    return counts
