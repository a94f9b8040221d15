"""Inverted separable convolution (ConvFormer, and the first two stages of CAFormer)."""

from __future__ import annotations

from torch import Tensor, nn

from medformer.models.backbone.layers import CONV, KernelSize, Pointwise, StarReLU, channels_last, per_axis


class SeparableConv(nn.Module):
    """Pointwise C->2C, StarReLU, depthwise convolution, pointwise 2C->C; no biases (ConvFormer)."""

    def __init__(self, channels: int, *, spatial_dims: int, stage: int, kernel_size: KernelSize | None = None) -> None:
        super().__init__()
        kernel, hidden = per_axis(kernel_size or 7, spatial_dims, "kernel_size"), 2 * channels
        self.pwconv1 = Pointwise(channels, hidden, bias=False)
        self.act1 = StarReLU()
        padding = tuple(size // 2 for size in kernel)
        self.dwconv = CONV[spatial_dims](hidden, hidden, kernel, padding=padding, groups=hidden, bias=False)  # type: ignore[arg-type]
        self.pwconv2 = Pointwise(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act1(self.pwconv1(x))
        if hidden.device.type == "cpu" and max(hidden.shape[2:]) <= max(self.dwconv.kernel_size):
            # On maps no larger than the kernel, oneDNN's channels-last weight gradient is five times slower.
            hidden = hidden.contiguous()
        mixed: Tensor = self.pwconv2(channels_last(self.dwconv(hidden)))
        return mixed
