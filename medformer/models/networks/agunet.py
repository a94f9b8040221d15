"""AGUNet: a U-Net for volumes whose skips pass attention gates, and whose levels each see the image.

Source: Bouget et al., Meningioma segmentation in T1-weighted MRI leveraging global context and attention mechanisms,
Frontiers in Radiology 2021. The released code does not say how many levels and channels there are: here nnU-Net's rule
decides where an axis is halved, and channels double from 16 to 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from medformer.config.shared import ModelConfig
from medformer.models.backbone.layers import BATCH_NORM, CONV, same_convolution
from medformer.models.networks.grid import Grid, PaddedNetwork
from medformer.models.networks.peers import topology

FIRST_WIDTH, MOST_WIDTH = 16, 256
Axes = tuple[int, ...]

_MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_UP: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class AttentionGate(nn.Module):
    """Weighs each position of a skip, `(B, C, *S)`, by itself and by the raised coarser map, `(B, G, *S)`.

    The two are narrowed to C / 2 channels each and joined side by side, not added as in Attention U-Net.
    """

    def __init__(self, spatial_dims: int, skip: int, coarser: int) -> None:
        super().__init__()
        width = skip // 2

        def narrow(source: int, target: int) -> nn.Sequential:
            return nn.Sequential(CONV[spatial_dims](source, target, 1, bias=False), BATCH_NORM[spatial_dims](target))

        self.of_skip, self.of_coarser = narrow(skip, width), narrow(coarser, width)
        self.score = narrow(2 * width, 1)

    def forward(self, skip: Tensor, coarser: Tensor) -> Tensor:
        joined = torch.relu(torch.cat([self.of_skip(skip), self.of_coarser(coarser)], 1))
        return skip * torch.sigmoid(self.score(joined))


class AGUNet(nn.Module):
    """Segmentation network, `(B, in_channels, *S) -> (B, out_channels, *S)` logits; strides divide the sides.

    With deep supervision it returns a list of logits while training, the full-size ones first, then those of coarser
    levels on their own grids.

    Args:
        in_channels: Of the image.
        out_channels: Logits.
        strides: From each level to the next, per axis.
        kernels: Of the convolutions of each level, per axis.
        deep_supervision: Add logits of coarser levels while training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        strides: Sequence[Axes],
        kernels: Sequence[Axes],
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        dims = len(kernels[0])
        widths = [min(MOST_WIDTH, FIRST_WIDTH * 2**level) for level in range(len(kernels))]
        finer = list(zip(strides, widths, kernels, strict=False))

        def block(source: int, width: int, kernel: Axes) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (source, width):
                layers += [same_convolution(dims, channels, width, kernel), BATCH_NORM[dims](width), nn.ReLU()]
            return nn.Sequential(*layers)

        def see(width: int, kernel: Axes) -> nn.Sequential:
            return nn.Sequential(same_convolution(dims, in_channels, width, kernel), nn.ReLU())

        def raised(source: int, width: int, step: Axes) -> nn.Module:
            spans, rims = [2 * n - 1 for n in step], [n - 1 for n in step]
            up: nn.Module = _UP[dims](source, width, spans, step, padding=rims, output_padding=rims)
            return up

        self.pools = nn.ModuleList(_MAX[dims](step) for step in strides)
        self.means = nn.ModuleList(_MEAN[dims](step) for step in strides)
        self.pyramid = nn.ModuleList(see(width, kernel) for width, kernel in zip(widths[1:], kernels[1:], strict=True))
        self.down = nn.ModuleList(
            block(source, width, kernel)
            for source, width, kernel in zip(
                (in_channels, *(a + b for a, b in pairwise(widths))), widths, kernels, strict=True
            )
        )
        self.raising = nn.ModuleList(
            raised(source, width, step) for source, (step, width, _) in zip(widths[1:], finer, strict=True)
        )
        self.gates = nn.ModuleList(AttentionGate(dims, width, width) for _, width, _ in finer)
        self.norms = nn.ModuleList(BATCH_NORM[dims](2 * width) for _, width, _ in finer)
        self.up = nn.ModuleList(block(2 * width, width, kernel) for _, width, kernel in finer)
        judged = len(finer) if deep_supervision else 1
        self.heads = nn.ModuleList(CONV[dims](width, out_channels, 1) for _, width, _ in finer[:judged])

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        skips: list[Tensor] = [self.down[0](image)]
        for down, pool, mean, see in zip(self.down[1:], self.pools, self.means, self.pyramid, strict=True):
            image = mean(image)
            skips.append(down(torch.cat([see(image), pool(skips[-1])], 1)))
        x, maps = skips[-1], list[Tensor]()
        for level in reversed(range(len(self.up))):
            x = self.raising[level](x)
            gated = self.gates[level](skips[level], x)
            x = self.up[level](torch.relu(self.norms[level](torch.cat([gated, x], 1))))
            maps.insert(0, x)
        judged = maps if self.training else maps[:1]
        logits = [head(level) for head, level in zip(self.heads, judged, strict=False)]
        return logits if len(logits) > 1 else logits[0]


def agunet(config: ModelConfig, grid: Grid) -> PaddedNetwork:
    """Return AGUNet with the levels of nnU-Net's rule.

    Raises:
        ConfigError: The patch is too small.
    """
    strides, kernels = topology(grid)
    steps = strides[1:]
    network = AGUNet(grid.in_channels, grid.out_channels, steps, kernels, config.deep_supervision)
    return PaddedNetwork(network, [prod(axis) for axis in zip(*steps, strict=True)])
