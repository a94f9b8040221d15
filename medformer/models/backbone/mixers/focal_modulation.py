"""Focal modulation: each position is multiplied by contexts of growing reach, weighted by gates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import (
    KernelSize,
    Pointwise,
    channels_last,
    per_axis,
    same_convolution,
    wide,
    within_half,
)


class FocalModulation(nn.Module):
    """A query times a sum of contexts, each behind a longer chain of depthwise convolutions, the last global.

    Yang et al., Focal Modulation Networks, NeurIPS 2022, eq. 4-6. Gates and modulator are kept nowhere, so that a
    forward pass leaves no graph behind.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        kernel_size: Kernel of the first context; each further one is 2 larger, except along axes where it is 1.
        levels: Convolved contexts, to which the global one is added.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        kernel_size: KernelSize = 3,
        levels: Annotated[int, Field(ge=1, le=8)] = 2,
    ) -> None:
        super().__init__()
        self.split = (channels, channels, levels + 1)
        self.fc_in = Pointwise(channels, sum(self.split))
        first = per_axis(kernel_size, spatial_dims, "kernel_size")
        self.contexts = nn.ModuleList(
            same_convolution(
                spatial_dims, channels, channels, [size + 2 * level if size > 1 else 1 for size in first], channels
            )
            for level in range(levels)
        )
        self.modulator = Pointwise(channels, channels)
        self.fc_out = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates = self.fc_in(x).split(self.split, 1)
        *near, everywhere = gates.split(1, 1)
        context = channels_last(context)
        total = 0.0
        for convolution, gate in zip(self.contexts, near, strict=True):
            context = F.gelu(channels_last(convolution(context)))
            total = total + wide(context) * gate
        axes = tuple(range(2, x.dim()))
        total = total + wide(F.gelu(context.mean(axes, keepdim=True))) * everywhere
        modulator = within_half(self.modulator, total, query.dtype, self.modulator.bias)
        return within_half(self.fc_out, query * modulator, query.dtype, self.fc_out.bias)
