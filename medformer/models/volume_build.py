"""From a volume model's name in a config, and a plan's numbers, to a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from medformer.config import VolumeModelConfig
from medformer.errors import ConfigError
from medformer.models import monai_peer
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.variants import VARIANTS, build_backbone
from medformer.models.meta_unet import MetaUNet
from medformer.registry import Entry, Registry

Axes = Sequence[int]


@dataclass(frozen=True)
class Grid:
    """What a plan says to a network.

    Attributes:
        patch: Voxels per axis of its usual input.
        spacing: Voxel size per axis, mm.
        strides: Of the stem and of each downsampling, per axis.
        kernel_sizes: Of each stage, per axis.
    """

    patch: Axes
    spacing: Sequence[float]
    strides: Sequence[Axes]
    kernel_sizes: Sequence[Axes]


Builder = Callable[[VolumeModelConfig, int, int, Grid], nn.Module]


def volume_backbone(
    config: VolumeModelConfig, in_channels: int, strides: Sequence[Axes], kernel_sizes: Sequence[Axes]
) -> MetaFormer:
    """Return the named variant in as many dimensions as the plan has axes.

    Its mixers get the plan's kernels. Where weights will be loaded they keep the variant's own, so that the weights
    fit, but for axes on which the plan looks at single positions.

    Raises:
        UnknownNameError: No variant has that name.
        ConfigError: The plan has another number of stages.
    """
    stages = len(VARIANTS[config.backbone].depths) if config.backbone in VARIANTS else len(strides)
    if not len(strides) == len(kernel_sizes) == stages:
        raise ConfigError(
            f"The plan has {len(strides)} strides and {len(kernel_sizes)} kernel sizes; {config.backbone} has {stages} "
            "stages. Plan again."
        )
    kernels = [tuple(kernel) for kernel in kernel_sizes]
    stem = kernels[0]
    if config.weights and config.backbone in VARIANTS:
        own = [size or 7 for size in VARIANTS[config.backbone].kernel_sizes or (None,) * stages]
        kernels = [tuple(1 if k == 1 else size for k in kernel) for kernel, size in zip(kernels, own, strict=True)]
        stem = tuple(1 if k == 1 else 7 for k in stem)
    return build_backbone(
        config.backbone,
        spatial_dims=len(kernels[0]),
        in_channels=in_channels,
        drop_path=config.drop_path,
        kernel_sizes=kernels,
        stem_kernel=_stem_kernel(config.backbone, stem, strides[0]),
        strides=strides,
        init=config.init,
        checkpointing=config.checkpointing,
    )


def _stem_kernel(backbone: str, kernel: Axes, stride: Axes) -> tuple[int, ...]:
    """The kernel of a patch stem spans its stride and its neighbors, as the published 7 does of stride 4."""
    if backbone in VARIANTS and VARIANTS[backbone].stem == "patch":
        return tuple(1 if k == 1 and s == 1 else max(k, 2 * s - 1) for k, s in zip(kernel, stride, strict=True))
    return tuple(kernel)


def _meta_unet(config: VolumeModelConfig, in_channels: int, out_channels: int, grid: Grid) -> nn.Module:
    backbone = volume_backbone(config, in_channels, grid.strides, grid.kernel_sizes)
    return MetaUNet(
        backbone,
        out_channels,
        deep_supervision=config.deep_supervision,
        kernel_sizes=[tuple(kernel) for kernel in grid.kernel_sizes],
    )


def _dynunet(config: VolumeModelConfig, in_channels: int, out_channels: int, grid: Grid) -> nn.Module:
    return monai_peer.dynunet(
        in_channels=in_channels,
        out_channels=out_channels,
        patch=grid.patch,
        spacing=grid.spacing,
        deep_supervision=config.deep_supervision,
    )


def _swinunetr(config: VolumeModelConfig, in_channels: int, out_channels: int, grid: Grid) -> nn.Module:
    return monai_peer.swinunetr(
        spatial_dims=len(grid.patch),
        in_channels=in_channels,
        out_channels=out_channels,
        checkpointing=config.checkpointing,
    )


def _unet(config: VolumeModelConfig, in_channels: int, out_channels: int, grid: Grid) -> nn.Module:
    return monai_peer.unet(in_channels=in_channels, out_channels=out_channels, patch=grid.patch, spacing=grid.spacing)


VOLUME_MODELS: Registry[Builder] = Registry(
    "volume model",
    [
        Entry("meta_unet", _meta_unet, "the shared backbone, multi-scale decoder, detail at full resolution"),
        Entry(
            "monai:dynunet",
            _dynunet,
            "nnU-Net's network, 32 to 320 filters, as a peer",
            "Isensee et al., Nature Methods 2021",
            "padded to its divisor",
        ),
        Entry(
            "monai:swinunetr",
            _swinunetr,
            "SwinUNETR with 48 features, as a peer",
            "Hatamizadeh et al., BrainLes 2021",
            "padded to multiples of 32",
        ),
        Entry(
            "monai:unet",
            _unet,
            "residual U-Net, 32 to 320 filters, as a peer",
            "Kerfoot et al., STACOM 2018",
            "padded to its divisor",
        ),
    ],
)


def build_volume_model(
    config: VolumeModelConfig,
    *,
    in_channels: int,
    out_channels: int,
    patch: Axes,
    spacing: Sequence[float],
    strides: Sequence[Axes],
    kernel_sizes: Sequence[Axes],
) -> nn.Module:
    """Return the network that `config` names: `(B, in_channels, *S) -> (B, out_channels, *S)` logits, any size.

    While training with deep supervision it returns a list: logits at full size, then at coarser grids. Peers find
    strides and kernels themselves, from `patch` and `spacing`.

    Args:
        config: Its name and sizes.
        in_channels: Channels of an image.
        out_channels: Classes, the background among them.
        patch: Voxels per axis that it will mostly see.
        spacing: Their size, mm.
        strides: Of the stem and of each downsampling, per axis.
        kernel_sizes: Of each stage, per axis.

    Raises:
        UnknownNameError: The model or backbone is not known; the nearest name is given.
        ConfigError: The plan's numbers do not suit the network.
    """
    grid = Grid(patch, spacing, strides, kernel_sizes)
    return VOLUME_MODELS[config.name].part(config, in_channels, out_channels, grid)
