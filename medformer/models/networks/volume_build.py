"""From a volume model's name in a config, and a plan's numbers, to a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from medformer.config import VolumeModelConfig
from medformer.errors import ConfigError, UnknownNameError
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.variants import VARIANTS, build_backbone
from medformer.models.networks import monai_peer
from medformer.models.networks.meta_unet import MetaUNet
from medformer.registry import Entry, Registry

Axes = Sequence[int]
PUBLISHED_KERNEL, SMALL_KERNEL = 7, 3


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
    """Return the named variant with a plan's strides and kernels.

    Where weights will be loaded, kernels have the size that the variant was published with, so that the weights fit,
    but for axes on which the plan looks at single positions.

    Raises:
        UnknownNameError: No variant has that name.
        ConfigError: The plan has another number of stages.
    """
    if config.backbone not in VARIANTS:
        raise UnknownNameError("backbone", config.backbone, VARIANTS)
    variant = VARIANTS[config.backbone]
    stages = len(variant.depths)
    if not len(strides) == len(kernel_sizes) == stages:
        raise ConfigError(
            f"The plan has {len(strides)} strides and {len(kernel_sizes)} kernel sizes; {config.backbone} has {stages} "
            "stages. Plan again."
        )
    # A stem sees what it steps over and as much beside it, as the published 7 does with its stride of 4.
    stem = [max(k, 2 * step - 1) for k, step in zip(kernel_sizes[0], strides[0], strict=True)]
    mixers = [tuple(kernel) for kernel in kernel_sizes]
    if variant.stem == "convolutions":
        stem = [min(k, SMALL_KERNEL) for k in stem]
    if config.weights:
        published = [own or PUBLISHED_KERNEL for own in variant.kernel_sizes or (None,) * stages]
        mixers = [_resized(kernel, own) for kernel, own in zip(mixers, published, strict=True)]
        if variant.stem == "patch":
            stem = list(_resized(stem, PUBLISHED_KERNEL))
    return build_backbone(
        config.backbone,
        spatial_dims=len(stem),
        in_channels=in_channels,
        drop_path=config.drop_path,
        kernel_sizes=mixers,
        stem_kernel=stem,
        strides=strides,
        init=config.init,
        checkpointing=config.checkpointing,
    )


def _resized(kernel: Axes, size: int) -> tuple[int, ...]:
    return tuple(1 if k == 1 else size for k in kernel)


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
