"""PLS-Net: a very small network for volumes, with separable convolutions, wide dilations and next to no decoder.

Source: Lee et al., Efficient 3D fully convolutional networks for pulmonary lobe segmentation in CT images, 2019, in the
form that Bouget et al. (Fast meningioma segmentation in T1-weighted MRI volumes using a lightweight 3D deep learning
architecture, JMI 2021) released for tumors of the brain.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.config.shared import ModelConfig
from medformer.models.backbone.layers import BATCH_NORM, CONV, LINEAR
from medformer.models.networks.grid import Grid, PaddedNetwork

WIDTHS, BLOCKS = (16, 64, 128), (1, 2, 4)
"""Channels and dense blocks of each level."""
GROWTH, DILATIONS = 12, (1, 2, 3, 4)
"""Channels that each convolution of a dense block adds, and how far apart it looks."""


def separable(spatial_dims: int, source: int, target: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a depthwise convolution of 3 and a pointwise one, both without bias, batch norm and ReLU."""
    conv = CONV[spatial_dims]
    return nn.Sequential(
        conv(source, source, 3, stride=stride, padding=dilation, dilation=dilation, groups=source, bias=False),
        conv(source, target, 1, bias=False),
        BATCH_NORM[spatial_dims](target),
        nn.ReLU(),
    )


class DilatedDenseBlock(nn.Module):
    """Convolutions that each see all maps before them, narrowed to the `(B, C, *S)` that came in and added to it."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            separable(spatial_dims, channels + at * GROWTH, GROWTH, dilation=dilation)
            for at, dilation in enumerate(DILATIONS)
        )
        self.narrow = CONV[spatial_dims](channels + len(DILATIONS) * GROWTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in self.convs:
            seen = torch.cat([conv(seen), seen], 1)
        narrowed: Tensor = self.narrow(seen)
        return narrowed + x


class PLSNet(nn.Module):
    """Segmentation network, `(B, in_channels, *S) -> (B, out_channels, *S)` logits; sides are multiples of 8.

    Each level halves the map, and joins the image itself, made as small. The result is put together at half
    resolution; the published network raises its maps before it makes logits of them, which is the same.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mode, width = LINEAR[spatial_dims], 2 * out_channels
        joined = [channels + in_channels for channels in WIDTHS]
        self.down = nn.ModuleList(
            separable(spatial_dims, source, target, stride=2)
            for source, target in zip((in_channels, *joined[:-1]), WIDTHS, strict=True)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(*[DilatedDenseBlock(spatial_dims, channels) for _ in range(count)])
            for channels, count in zip(joined, BLOCKS, strict=True)
        )
        self.bridges = nn.ModuleList(separable(spatial_dims, channels, width) for channels in joined[:-1])
        self.up = nn.ModuleList(separable(spatial_dims, source, width) for source in (2 * width, 2 * width, joined[-1]))
        self.head = CONV[spatial_dims](width, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, maps = image, []
        for level, (down, blocks) in enumerate(zip(self.down, self.levels, strict=True), start=1):
            x = down(x)
            x = blocks(torch.cat([x, self._scaled(image, 0.5**level)], 1))
            maps.append(x)
        x = self.up[2](x)
        for level in (1, 0):
            x = self.up[level](torch.cat([self._scaled(x, 2.0), self.bridges[level](maps[level])], 1))
        return self._scaled(self.head(x), 2.0)

    def _scaled(self, x: Tensor, factor: float) -> Tensor:
        """Resize linearly, without smoothing."""
        return F.interpolate(x, scale_factor=factor, mode=self.mode, align_corners=False)


def plsnet(config: ModelConfig, grid: Grid) -> PaddedNetwork:
    """Return PLS-Net, which has no settings."""
    divisor = 2 ** len(WIDTHS)
    network = PLSNet(grid.spatial_dims, grid.in_channels, grid.out_channels)
    return PaddedNetwork(network, (divisor,) * grid.spatial_dims)
