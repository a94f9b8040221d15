"""Networks of MONAI as peers, at any input size.

nnU-Net's network, MedNeXt, Auto3DSeg's residual network, SwinUNETR and a residual U-Net; ResNet-18, which classifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import prod
from typing import Any

from torch import Tensor, nn

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError
from medformer.models.backbone.heads import Classifier
from medformer.models.networks.grid import Grid, PaddedNetwork

# nnU-Net's limits: width of its finest and widest stage, most stages, and the smallest feature axis that is halved.
FIRST_FILTERS, MOST_FILTERS, MOST_STAGES, SMALLEST_HALVED = 32, 320, 6, 8
SWIN_FEATURES, SWIN_DIVISOR = 48, 32
# Of Auto3DSeg: width of the finest level, residual blocks of each, levels that are judged.
SEGRES_FILTERS, SEGRES_BLOCKS, SEGRES_JUDGED = 32, (1, 2, 2, 4, 4), 4
MEDNEXT_KERNEL, MEDNEXT_DIVISOR = 3, 16
RESNET_STRIDE = 32
"""Of the last map of a ResNet with the stem of ImageNet."""
# Instance norm needs more than one position on the deepest map, so an input of one step is padded to two.
_MINIMUM = 2


def nnunet_topology(
    patch: Sequence[int], spacing: Sequence[float]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return strides and kernel sizes of each stage by nnU-Net's rule (Isensee et al., Nature Methods 2021).

    An axis is halved while at least `SMALLEST_HALVED` positions remain and its spacing is at most twice the finest; a
    kernel spans 3 positions of an axis under the same condition on spacing, and 1 otherwise.

    Raises:
        ConfigError: The input is too small for the three stages that the network needs.
    """
    size, mm = list(patch), list(spacing)
    strides: list[tuple[int, ...]] = [(1,) * len(size)]
    kernels = [_kernel(mm)]
    while len(strides) < MOST_STAGES:
        fine = [length <= 2 * min(mm) for length in mm]
        step = tuple(2 if near and n >= SMALLEST_HALVED else 1 for near, n in zip(fine, size, strict=True))
        if set(step) == {1}:
            break
        size = [-(-n // s) for n, s in zip(size, step, strict=True)]
        mm = [length * s for length, s in zip(mm, step, strict=True)]
        strides.append(step)
        kernels.append(_kernel(mm))
    if len(strides) < 3:
        raise ConfigError(
            f"An input of {' x '.join(map(str, patch))} can be halved {len(strides) - 1} times; this network needs two "
            "times. Set plan.patch (volumes) or data.image_size (images) to at least 16 on the finest axes, or "
            "model.name=meta_unet."
        )
    return strides, kernels


def topology(grid: Grid) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return strides and kernel sizes of each stage for a grid; see `nnunet_topology`."""
    return nnunet_topology(grid.size, grid.spacing or (1.0,) * grid.spatial_dims)


def _kernel(spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(3 if length <= 2 * min(spacing) else 1 for length in spacing)


def _filters(stages: int) -> list[int]:
    return [min(MOST_FILTERS, FIRST_FILTERS * 2**stage) for stage in range(stages)]


class SupervisedDynUNet(nn.Module):
    """MONAI's DynUNet whose coarser logits, while training, stay on their own grids as in nnU-Net.

    MONAI raises them to full size, which takes memory, and holds each block under several names, which a file of
    tensors cannot.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.input_block: nn.Module = network.input_block
        self.downsamples: nn.ModuleList = network.downsamples
        self.bottleneck: nn.Module = network.bottleneck
        self.upsamples: nn.ModuleList = network.upsamples
        self.output_block: nn.Module = network.output_block
        self.heads: nn.ModuleList | None = network.deep_supervision_heads if network.deep_supervision else None

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        skips: list[Tensor] = [self.input_block(x)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        x = self.bottleneck(skips[-1])
        maps: list[Tensor] = []
        for up, skip in zip(self.upsamples, reversed(skips), strict=True):
            x = up(x, skip)
            maps.insert(0, x)
        logits: Tensor = self.output_block(maps[0])
        if self.heads is None or not self.training:
            return logits
        return [logits, *(head(level) for head, level in zip(self.heads, maps[1:], strict=False))]


def dynunet(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return nnU-Net's network: 32 to 320 filters, instance norm, leaky ReLU, logits of all but two levels.

    Raises:
        ConfigError: The patch is too small.
    """
    from monai.networks.nets import DynUNet

    strides, kernels = topology(grid)
    heads = len(strides) - 3
    network = DynUNet(
        spatial_dims=grid.spatial_dims,
        in_channels=grid.in_channels,
        out_channels=grid.out_channels,
        kernel_size=kernels,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=_filters(len(strides)),
        deep_supervision=config.deep_supervision and heads > 0,
        deep_supr_num=max(1, heads),
    )
    return PaddedNetwork(SupervisedDynUNet(network), _product(strides), _MINIMUM)


def swinunetr(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return SwinUNETR with 48 features (Hatamizadeh et al., BrainLes 2021), random weights.

    Raises:
        ConfigError: einops, which MONAI needs for it, is not installed.
    """
    if find_spec("einops") is None:
        raise ConfigError("MONAI's SwinUNETR needs the package einops, which is missing: pip install einops")
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(
        in_channels=grid.in_channels,
        out_channels=grid.out_channels,
        feature_size=SWIN_FEATURES,
        spatial_dims=grid.spatial_dims,
        use_checkpoint=config.checkpointing,
    )
    return PaddedNetwork(network, (SWIN_DIVISOR,) * grid.spatial_dims, _MINIMUM)


def unet(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return MONAI's residual U-Net with the stages and widths of nnU-Net's rule and two units in each stage.

    Raises:
        ConfigError: The patch is too small.
    """
    from monai.networks.nets import UNet

    strides, _ = topology(grid)
    network = UNet(
        spatial_dims=grid.spatial_dims,
        in_channels=grid.in_channels,
        out_channels=grid.out_channels,
        channels=_filters(len(strides)),
        strides=strides[1:],
        num_res_units=2,
    )
    return PaddedNetwork(network, _product(strides), _MINIMUM)


def segresnet_ds(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return the residual network of Auto3DSeg: five levels, and the coarse axes of thick slices halved later."""
    from monai.networks.nets import SegResNetDS

    network = SegResNetDS(
        spatial_dims=grid.spatial_dims,
        init_filters=SEGRES_FILTERS,
        in_channels=grid.in_channels,
        out_channels=grid.out_channels,
        norm="instance",
        blocks_down=SEGRES_BLOCKS,
        dsdepth=SEGRES_JUDGED if config.deep_supervision else 1,
        resolution=tuple(grid.spacing or (1.0,) * grid.spatial_dims),
    )
    return PaddedNetwork(network, [int(factor) for factor in network.shape_factor()], _MINIMUM)


def mednext(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return MedNeXt-B with kernels of 3 (Roy et al., MICCAI 2023), whose axes are all halved four times."""
    from monai.networks.nets import MedNeXtB

    network = MedNeXtB(
        spatial_dims=grid.spatial_dims,
        in_channels=grid.in_channels,
        out_channels=grid.out_channels,
        kernel_size=MEDNEXT_KERNEL,
        deep_supervision=config.deep_supervision,
    )
    return PaddedNetwork(network, (MEDNEXT_DIVISOR,) * grid.spatial_dims, _MINIMUM)


class Pooled(nn.Module):
    """A network `(B, C, *S) -> (B, features)` as the backbone of a `Classifier`, which takes the last of several."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.network(x)]


def resnet18(config: ModelConfig, grid: Grid) -> Classifier:
    """Return ResNet-18 with projections where the width grows (He et al., CVPR 2016): `(B, C, *S) -> (B, classes)`.

    Its stem, a convolution of 7 with stride 2 and a max pooling, is that of ImageNet. Where `RESNET_STRIDE` would leave
    a single position of the planned size, it is that of small images instead, as in the experiments of MedMNIST (Yang
    et al., Scientific Data 2023): a convolution of 3 without stride, and no pooling.
    """
    from monai.networks import nets

    small = max(grid.size) <= RESNET_STRIDE
    network = nets.resnet18(
        spatial_dims=grid.spatial_dims,
        n_input_channels=grid.in_channels,
        num_classes=grid.out_channels,
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
        bias_downsample=False,
    )
    head, network.fc = network.fc, None
    return Classifier(Pooled(network), head)


def _product(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(prod(axis) for axis in zip(*strides, strict=True))
