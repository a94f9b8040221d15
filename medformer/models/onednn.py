"""Convolutions on a CPU where torch by itself takes a kernel that is several times slower than the best one it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def runs_onednn(x: Tensor) -> bool:
    """Whether float32 runs eagerly on a CPU, where torch at times takes another kernel than oneDNN's."""
    # First, because a compiler does not follow the others.
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


_LARGE = 20480
"""Channels x planes x rows above which torch gives a single volume to oneDNN."""


class Conv3d(nn.Conv3d):
    """A 3-D convolution that oneDNN computes also for a single volume, `(B, C_in, *S) -> (B, C_out, *S)`.

    For a batch of one and a map of few channels and rows torch takes a kernel that is several times slower. Where
    gradients are needed too, such a map is cut into two halves with what their kernels share, which form a batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if x.shape[0] == 1 and not isinstance(padding, str) and self.weight.dtype == torch.float32 and runs_onednn(x):
            if not torch.is_grad_enabled():
                return torch.mkldnn_convolution(
                    x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups
                )
            if x[0, :, :, :, 0].numel() <= _LARGE and self.groups == 1 and self.padding_mode == "zeros":
                return self._in_halves(x)
        out: Tensor = super().forward(x)
        return out

    def _in_halves(self, x: Tensor) -> Tensor:
        kernel, step, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        reach = self.dilation[0] * (kernel - 1) + 1
        planes = (x.shape[2] + 2 * padding - reach) // step + 1
        half = -(-planes // 2)
        # The first planes of the second half, and the last ones that it needs.
        begin, end = half * step, (2 * half - 1) * step + reach
        padded = F.pad(x, (0, 0, 0, 0, padding, end - padding - x.shape[2]))
        halves = torch.cat([padded[:, :, : end - begin], padded[:, :, begin:end]])
        around = (0, *self.padding[1:])
        out = F.conv3d(halves, self.weight, self.bias, self.stride, around, self.dilation, self.groups)
        return torch.cat(out.split(1), 2)[:, :, :planes]


class _LowDepthwise(torch.autograd.Function):
    """A depthwise convolution in bfloat16 whose weights get their gradient in float32.

    oneDNN takes two to eight times as long for that gradient in bfloat16 on a CPU as in float32.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> Tensor:
        low: Tensor = torch.ops.aten.convolution(x.bfloat16(), weight.bfloat16(), None, *settings)
        return low

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.settings = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        back, grad = torch.ops.aten.convolution_backward, grads[0]
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            low = back(grad, x.bfloat16(), weight.bfloat16(), None, *ctx.settings, (True, False, False))
            of_x = low[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = back(grad.float(), x.float(), weight.float(), None, *ctx.settings, (False, True, False))[1]
        return of_x, of_weight, None


def _learns_low(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether the weights of a depthwise layer learn under bfloat16 autocast, run eagerly on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and layer.weight.requires_grad
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    )


def _low_depthwise(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    around = (layer.stride, layer.padding, layer.dilation)
    settings = (*map(tuple, around), False, (0,) * len(layer.stride), layer.groups)
    out: Tensor = _LowDepthwise.apply(x, layer.weight, settings)  # type: ignore[no-untyped-call]
    return out


class Depthwise2d(nn.Conv2d):
    """A 2-D convolution of each channel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return _low_depthwise(x, self) if _learns_low(x, self) else super().forward(x)


class Depthwise3d(Conv3d):
    """A 3-D convolution of each channel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return _low_depthwise(x, self) if _learns_low(x, self) else super().forward(x)
