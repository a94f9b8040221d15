"""Inverted separable convolution (ConvFormer, and the first two stages of CAFormer)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from medformer.models.backbone.layers import KernelSize, Pointwise, channels_last, same_convolution, within_half
from medformer.models.backbone.mlp import StarReLU


class SeparableConv(nn.Module):
    """Pointwise C->2C, StarReLU, depthwise convolution, pointwise 2C->C; no biases (ConvFormer)."""

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        kernel_size: KernelSize = 7,
        expansion: Annotated[int, Field(ge=1, le=64)] = 2,
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        self.pwconv1 = Pointwise(channels, hidden, bias=False)
        self.act1 = StarReLU()
        self.dwconv = same_convolution(spatial_dims, hidden, hidden, kernel_size, groups=hidden)
        self.pwconv2 = Pointwise(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = self.pwconv1(x)
        hidden = self.act1(before)
        if hidden.device.type == "cpu" and max(hidden.shape[2:]) <= max(self.dwconv.kernel_size):
            # On maps no larger than the kernel, oneDNN's channels-last weight gradient is five times slower.
            hidden = hidden.contiguous()
        return within_half(lambda part: self.pwconv2(channels_last(self.dwconv(part))), hidden, before.dtype)
