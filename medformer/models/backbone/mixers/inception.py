"""Inception mixing: convolution, maximum and attention, each on its own channels (Inception Transformer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import (
    HEAD_CHANNELS,
    KernelSize,
    Number,
    Pointwise,
    attend,
    channels_last,
    odd_kernel,
    same_convolution,
)

_LOW = (1 / 3, 1 / 2, 4 / 5, 11 / 12)
"""Share of the heads that attend in each stage of the published network."""
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Inception(nn.Module):
    """High frequencies by a depthwise convolution and by a maximum, low ones by attention on a halved map.

    Si et al., Inception Transformer, NeurIPS 2022, eq. 2-7. The published code floors odd sizes when it halves the map
    and reads the size back from the number of positions, so that only even squares work; here the last position of an
    odd axis is averaged alone.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest. The finest two attend on the halved map.
        kernel_size: Of convolutions and maximum.
        attention_heads: Heads that attend, of the channels / 32 (at least 2) that there are; None for the share that
            the published network has in this stage.

    Raises:
        ValueError: Channels that cannot be shared out so.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        stage: int,
        kernel_size: KernelSize = 3,
        attention_heads: Number | None = None,
    ) -> None:
        super().__init__()
        total = max(2, channels // HEAD_CHANNELS)
        wanted = attention_heads or round(_LOW[min(stage, 3)] * total)
        self.heads = wanted if attention_heads else min(max(wanted, 1), total - 1)
        low = channels // total * self.heads
        half = (channels - low) // 2
        if channels % total or (channels - low) % 2 or half < 1:
            raise ValueError(
                f"inception: {channels} channels in {total} heads, of which {self.heads} attend, cannot be shared "
                "out; expected a multiple of 64 channels, and fewer attending heads than there are"
            )
        self.split = (half, half, low)
        self.halved = stage < 2
        self.kernel, self.padding = odd_kernel(kernel_size, spatial_dims)
        self.conv_in = Pointwise(half, 2 * half, bias=False)
        self.conv = same_convolution(spatial_dims, 2 * half, 2 * half, kernel_size, groups=2 * half)
        self.pool = Pointwise(half, 2 * half)
        self.qkv = Pointwise(low, 3 * low)
        joined = 4 * half + low
        self.fuse = same_convolution(spatial_dims, joined, joined, kernel_size, groups=joined)
        self.proj = Pointwise(joined, channels)

    def forward(self, x: Tensor) -> Tensor:
        dims = x.dim() - 2
        convolved, pooled, low = x.split(self.split, 1)
        convolved = F.gelu(self.conv(channels_last(self.conv_in(convolved))))
        pooled = F.gelu(self.pool(_MAX_POOL[dims](pooled, self.kernel, 1, self.padding)))
        size = low.shape[2:]
        if self.halved:
            low = _AVERAGE_POOL[dims](low, 2, 2, ceil_mode=True, count_include_pad=False)
        query, key, value = self.qkv(low).chunk(3, 1)
        low = attend(query, key, value, self.heads)
        if self.halved:
            low = F.interpolate(low, size, mode="nearest")
        joined = channels_last(torch.cat((convolved, pooled, low), 1))
        out: Tensor = self.proj(joined + channels_last(self.fuse(joined)))
        return out
