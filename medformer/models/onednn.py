"""Convolutions on a CPU where torch by itself takes a kernel that is several times slower than the best one it has."""

from __future__ import annotations

from collections.abc import Sequence
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


class _SameDepthwise(torch.autograd.Function):
    """A depthwise convolution that keeps the size of its map, with quicker gradients on a CPU; in bfloat16 if asked.

    oneDNN has no kernel of its own for the gradients of a 3-D one, and a slow one for those of a large 2-D kernel: they
    take up to thirty times as long as the convolution. Both gradients are such convolutions themselves, which it
    computes quickly: that of the input with the kernel mirrored, that of the weights of each channel of each sample
    with the gradient of its output as the kernel. In bfloat16 the gradient of the weights is computed in float32, where
    it takes an eighth to a half of the time.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, padding: tuple[int, ...], low: bool) -> Tensor:
        if low:
            x, weight = x.bfloat16(), weight.bfloat16()
        return _depthwise(x, weight, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.padding, ctx.low = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        (grad,), padding, quick = grads, ctx.padding, _is_quicker(weight)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            kernel = weight.to(grad.dtype)
            if quick and not ctx.low:
                of_x = _depthwise(grad, kernel.flip(*range(2, kernel.dim())), padding)
            else:
                of_x = _torch_gradients(grad, x.to(grad.dtype), kernel, padding, (True, False, False))[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            x, grad = x.float(), grad.float()
            if quick:
                of_weight = _gradient_of_weight(x, grad, padding, weight.shape)
            else:
                of_weight = _torch_gradients(grad, x, weight, padding, (False, True, False))[1]
        return of_x, of_weight, None, None


_GROUP = 16
"""Channels that oneDNN is given at once of a large volume."""

_LARGE_MAP = 4096
"""Positions of a map from which that is quicker than all channels at once."""


def _gradient_of_weight(x: Tensor, grad: Tensor, padding: tuple[int, ...], shape: Sequence[int]) -> Tensor:
    """The gradient of a depthwise kernel, `(C, 1, *K)`, with that of the output as the kernel of each channel.

    oneDNN copies both maps into an order of its own. Large volumes come in groups of channels of one sample: the copies
    are then small, and all takes two thirds of the time. For small maps many calls would take longer than one.
    """
    if x.dim() == 5 and x[0, 0].numel() >= _LARGE_MAP:
        groups = [zip(one.split(_GROUP), other.split(_GROUP), strict=True) for one, other in zip(x, grad, strict=True)]
        found = [torch.cat([_depthwise(a[None], b[:, None], padding)[0] for a, b in group]) for group in groups]
        return torch.stack(found).sum(0).view(shape)
    maps, kernels = x.flatten(0, 1).unsqueeze(0), grad.flatten(0, 1).unsqueeze(1)
    return _depthwise(maps, kernels, padding).view(len(x), *shape).sum(0)


def _depthwise(x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Tensor:
    convolve = F.conv2d if x.dim() == 4 else F.conv3d
    return convolve(x, weight, padding=padding, groups=len(weight))


def _torch_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, ...], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    ones, none = (1,) * len(padding), (0,) * len(padding)
    settings = (None, ones, padding, ones, False, none, len(weight), wanted)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(grad, x, weight, *settings)
    return found


def _is_quicker(weight: Tensor) -> bool:
    """Whether the gradients are quicker as convolutions: in 3-D, and from 5 x 5 on where this was measured, on AVX2."""
    if weight.dim() == 5:
        return True
    return weight[0, 0].numel() > 9 and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _same_depthwise(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor | None:
    """What a layer of `same_convolution` gives where it learns eagerly on a CPU and torch is slow; None elsewhere."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return None
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu") is torch.bfloat16
        wanted = low and layer.weight.requires_grad
    else:
        low = False
        wanted = runs_onednn(x) and layer.weight.dtype == torch.float32 and _is_quicker(layer.weight)
    if not wanted:
        return None
    out: Tensor = _SameDepthwise.apply(x, layer.weight, layer.padding, low)  # type: ignore[no-untyped-call]
    return out


class Depthwise2d(nn.Conv2d):
    """A 2-D convolution of each channel by itself, as `same_convolution` makes it."""

    def forward(self, x: Tensor) -> Tensor:
        out = _same_depthwise(x, self)
        return super().forward(x) if out is None else out


class Depthwise3d(Conv3d):
    """A 3-D convolution of each channel by itself, as `same_convolution` makes it."""

    def forward(self, x: Tensor) -> Tensor:
        out = _same_depthwise(x, self)
        return super().forward(x) if out is None else out
