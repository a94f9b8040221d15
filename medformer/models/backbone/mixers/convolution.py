"""A plain convolution: every channel of every neighbor (ours, for fine maps when training from scratch)."""

from __future__ import annotations

from torch import Tensor, nn

from medformer.models.backbone.layers import CONV, KernelSize, channels_last, per_axis


class Convolution(nn.Module):
    """A dense convolution C->C, kernel 3, no bias.

    With few channels on a fine 3-D map it trains several times faster on a CPU than the depthwise convolution of
    `separable_conv` over twice the channels, whose weight gradient runs at memory speed, and it computes more.
    """

    def __init__(self, channels: int, *, spatial_dims: int, stage: int, kernel_size: KernelSize | None = None) -> None:
        super().__init__()
        kernel = per_axis(kernel_size or 3, spatial_dims, "kernel_size")
        padding = tuple(size // 2 for size in kernel)
        self.conv = CONV[spatial_dims](channels, channels, kernel, padding=padding, bias=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(self.conv(x))
