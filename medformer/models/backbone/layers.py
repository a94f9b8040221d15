"""The small layers every MetaFormer is made of, for 1, 2 and 3 spatial dimensions.

Tensors are `(batch, channels, *spatial)` everywhere. Their memory, though, is kept channels-last: then a
norm over channels, a pointwise layer and flattening to tokens are free views instead of copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional as F

from medformer.models.linear import linear
from medformer.models.onednn import Conv3d, Depthwise2d, Depthwise3d, runs_onednn

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: Conv3d}
DEPTHWISE: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: Depthwise2d,
    3: Depthwise3d,
}
BATCH_NORM: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""Mode of linear interpolation in each number of dimensions."""
HEAD_CHANNELS = 32
"""Channels of an attention head where nothing else is said (CAFormer)."""

KernelSize = int | Sequence[int]
"""One odd number for all axes, or one for each."""
LARGEST_KERNEL = 1023
# A number beyond these is a slip, which would fill the memory of the machine, or compute for days.
Number = Annotated[int, Field(ge=1, le=65_536)]
"""Of states, hidden channels, heads and the like, in a config."""
Few = Annotated[int, Field(ge=1, le=64)]
"""Of steps, factors and the like."""


def per_axis(value: int | Sequence[int], spatial_dims: int, name: str) -> tuple[int, ...]:
    """Expand one number to every axis, or check that there is one number per axis.

    Raises:
        ValueError: The length is not `spatial_dims` or a number is below 1.
    """
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims or min(values) < 1:
        raise ValueError(f"{name}: got {value}, expected a positive int or {spatial_dims} of them")
    return values


def odd_kernel(value: KernelSize, spatial_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a kernel per axis and the padding with which it keeps the size of a map.

    Raises:
        ValueError: A size is even or beyond `LARGEST_KERNEL`, or their number is not `spatial_dims`.
    """
    sizes = per_axis(value, spatial_dims, "kernel_size")
    if any(size % 2 == 0 or size > LARGEST_KERNEL for size in sizes):
        raise ValueError(f"kernel_size: got {value}, expected odd numbers up to {LARGEST_KERNEL}")
    return sizes, tuple(size // 2 for size in sizes)


def same_convolution(
    spatial_dims: int, in_channels: int, out_channels: int, kernel: KernelSize, groups: int = 1
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """Return a convolution without bias that keeps the size of its map, `(B, C_in, *S) -> (B, C_out, *S)`."""
    sizes, padding = odd_kernel(kernel, spatial_dims)
    kind = DEPTHWISE if 1 < groups == in_channels == out_channels else CONV
    return kind[spatial_dims](in_channels, out_channels, sizes, padding=padding, groups=groups, bias=False)  # type: ignore[arg-type]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of every position over all positions of another map, `(B, C, *S) -> (B, C, *S)`.

    Args:
        query: `(B, C, *S)`.
        key: `(B, C, *K)`.
        value: `(B, C, *K)`.
        heads: Number of heads; it divides C.
    """
    # (B, C, *S) -> (B, heads, positions, C / heads)
    split = [x.flatten(2).unflatten(1, (heads, -1)).transpose(-1, -2) for x in (query, key, value)]
    mixed = F.scaled_dot_product_attention(*split)
    # Through (B, positions, C), which is the memory the attention kernel leaves.
    return mixed.transpose(1, 2).flatten(2).unflatten(1, query.shape[2:]).movedim(-1, 1)


def head_count(channels: int, heads: int | None) -> int:
    """Return the number of attention heads; None stands for one for every `HEAD_CHANNELS` channels.

    Raises:
        ValueError: The channels cannot be divided among them.
    """
    if heads is None and channels % HEAD_CHANNELS:
        raise ValueError(
            f"attention: got {channels} channels, expected a multiple of {HEAD_CHANNELS}, or heads that divide them"
        )
    if heads is not None and (heads < 1 or channels % heads):
        raise ValueError(f"attention: got {channels} channels for {heads} heads, expected a multiple of the heads")
    return channels // HEAD_CHANNELS if heads is None else heads


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast, for what half precision computes wrongly or not at all."""
    known = is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def wide(x: Tensor) -> Tensor:
    """Return float16 as float32 and any other type as it is, for products that may be above 65504."""
    return x.float() if x.dtype == torch.float16 else x


HALF_RANGE = 2.0**11
"""What a layer in float16 is given at most: it leaves room for the sum over its inputs."""


def within_half(layer: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """Apply a layer that computes in float16 to a map that float16 may not hold, and give out float32.

    Each sample with a value above `HALF_RANGE` is divided by a power of two, and its result multiplied by it again: no
    digit is lost but those of numbers that are next to nothing beside the largest. In another type it is `layer(x)`.

    Args:
        layer: Linear but for its bias, `(B, C_in, *S) -> (B, C_out, *S)`.
        x: `(B, C_in, *S)`.
        dtype: What the layer computes in.
        bias: Of the layer, `(C_out,)`.
    """
    if dtype != torch.float16:
        return layer(x)
    largest = x.detach().abs().amax(tuple(range(1, x.dim())), keepdim=True).float()
    factor = torch.exp2(torch.log2(largest / HALF_RANGE).ceil().clamp(min=0.0))
    out = layer((x / factor).to(dtype)).float() * factor
    return out if bias is None else out + (1.0 - factor) * bias.float().view(-1, *[1] * (x.dim() - 2))


def channels_last(x: Tensor) -> Tensor:
    """Return `x` with the same shape and values and channels-last memory, which an exported graph leaves alone."""
    if torch.compiler.is_exporting():
        return x
    rows = x.movedim(1, -1).contiguous()
    return _rows_as(rows, rows.shape)


def _rows_as(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """View contiguous `(B, *S, C)` as another `(B, *S', C)`, and give it out as `(B, C, *S')`.

    It goes through one axis, because then an axis of size 1, such as the batch of a single volume, has the stride by
    which torch tells that channels are last. With another one it copies the map to channels-first.
    """
    return rows.flatten().view(shape).movedim(-1, 1)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a `(C_out, C_in)` matrix at each position, `(B, C_in, *S) -> (B, C_out, *S)`.

    What is compiled or in half precision is a convolution on a CPU, with positions flattened to one axis. An exported
    graph gets a plain convolution, which a runtime joins with its neighbors.
    """
    if torch.compiler.is_exporting():
        dims = x.dim() - 2
        return _CONVOLVE[dims](x, weight.reshape(*weight.shape, *[1] * dims), bias)
    if x.device.type != "cpu" or runs_onednn(x):
        return linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)
    rows = x.movedim(1, -1).contiguous()
    out = F.conv2d(_rows_as(rows, (len(x), 1, -1, x.shape[1])), weight[:, :, None, None], bias)
    return _rows_as(out.movedim(1, -1).contiguous(), (*rows.shape[:-1], len(weight)))


class Pointwise(nn.Linear):
    """A 1x1 convolution, `(B, C_in, *S) -> (B, C_out, *S)`."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


class Scale(nn.Module):
    """A learnable factor per channel."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), initial))

    def over(self, x: Tensor) -> Tensor:
        """Return the factors shaped to multiply `x`, `(C,) -> (C, 1, ...)`."""
        return self.scale.view(-1, *[1] * (x.dim() - 2))


class DropPath(nn.Module):
    """Stochastic depth: drop a branch per sample, rescale what is kept (Huang et al., ECCV 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"stochastic depth rate: got {rate}, expected 0 <= rate < 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1.0 - self.rate))
