"""Norms of feature maps, and weights that belong to the positions of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import LINEAR, per_axis

NormName = Literal["channel", "layer", "map", "group", "instance", "joint"]
Positions = Annotated[int, Field(ge=1, le=4096)]
Grid = Positions | Sequence[Positions] | None
"""Positions of the finest map that weights are made for: one number for all axes, one for each, or the usual ones."""


class ChannelNorm(nn.Module):
    """LayerNorm over channels at each position, scale only (ConvFormer, CAFormer)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, None, self.eps).movedim(-1, 1)


class LayerNorm(ChannelNorm):
    """LayerNorm over channels at each position, with scale and bias (FocalNet)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)


def _gpu_rows(x: Tensor) -> bool:
    """Whether a GPU holds a map with channels last in memory, which its group norm would copy to channels first."""
    return x.device.type == "cuda" and not torch.compiler.is_exporting() and x.movedim(1, -1).is_contiguous()


def _over_map(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalize each sample over channels and positions together, without changing the order of its memory."""
    if not _gpu_rows(x):
        return F.group_norm(x, 1, weight, bias, eps)
    rows = x.movedim(1, -1)
    normed = F.layer_norm(rows, rows.shape[1:], eps=eps)
    if weight is not None:
        normed = normed * weight if bias is None else torch.addcmul(bias, normed, weight)
    return normed.movedim(-1, 1)


class MapNorm(ChannelNorm):
    """LayerNorm over channels and all positions of a sample together, scale only (PoolFormerV2's "modified LN")."""

    def forward(self, x: Tensor) -> Tensor:
        return _over_map(x, self.weight, None, self.eps)


class BiasedMapNorm(nn.GroupNorm):
    """The same with a bias: a group norm of one group (PoolFormer)."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return _over_map(x, self.weight, self.bias, self.eps)


class InstanceNorm(ChannelNorm):
    """Each channel of each sample by its own mean and deviation over positions, with scale and bias."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        by_sample = x.device.type in ("cpu", "meta") and not torch.compiler.is_exporting()
        if not by_sample and not _gpu_rows(x):
            # Unlike that of `functional`, it does not refuse a map of one position.
            return torch.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        # With channels-last memory a CPU normalizes a batch of one in a tenth of the time that its group norm takes to
        # train, and unlike its instance norm without changing the memory's order, as on a GPU.
        normed = [
            torch.native_batch_norm(sample, self.weight, self.bias, None, None, True, 0.0, self.eps)[0]
            for sample in x.split(1)
        ]
        return normed[0] if len(normed) == 1 else torch.cat(normed)


class JointNorm(nn.Module):
    """LayerNorm over channels and positions together, with a scale and a bias for each pair of them (ParaMixer).

    They belong to the positions of a grid, and are interpolated linearly to a map of another size.
    """

    def __init__(self, channels: int, grid: Sequence[int], eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, *grid))
        self.bias = nn.Parameter(torch.zeros(channels, *grid))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = _over_map(x, None, None, self.eps)
        return normed * resize(self.weight, x.shape[2:]) + resize(self.bias, x.shape[2:])


def resize(weights: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate weights `(C, *grid)` of the positions of a grid linearly to another one, `(C, *size)`."""
    if weights.shape[1:] == tuple(size):
        return weights
    return F.interpolate(weights[None], tuple(size), mode=LINEAR[len(size)])[0]


# In 3-D more would be too much for matrices of positions by positions: 14^3 of them hold 7.5 million numbers.
_REFERENCE_INPUT = {1: (12544,), 2: (224, 224), 3: (96, 96, 96)}


def reference_grid(spatial_dims: int, stride: int | Sequence[int]) -> tuple[int, ...]:
    """Positions per axis of a map of this stride, of the input that weights which belong to positions are made for.

    It has 224 x 224 pixels, as many positions at stride 4 in one dimension, and 96 x 96 x 96 voxels.
    """
    steps = per_axis(stride, spatial_dims, "stride")
    return tuple(-(-n // step) for n, step in zip(_REFERENCE_INPUT[spatial_dims], steps, strict=True))


def stage_grid(spatial_dims: int, stage: int, grid: Grid = None) -> tuple[int, ...]:
    """Positions per axis of a stage, which has half as many as the one before.

    Without a grid of the finest map they are those of that input, where the stages have the strides 4, 8, 16 and 32. In
    one dimension a stage then has as many positions as in two.
    """
    if grid is not None:
        return tuple(max(1, n // 2**stage) for n in per_axis(grid, spatial_dims, "grid"))
    stride = 4 * 2 ** min(stage, 3)
    return (math.prod(reference_grid(2, stride)),) if spatial_dims == 1 else reference_grid(spatial_dims, stride)


def make_norm(name: NormName, channels: int, grid: Sequence[int] = ()) -> nn.Module:
    """Return a norm: `channel`, `layer`, `map`, `instance`, `group` (GroupNorm with one group and bias), or `joint`.

    Args:
        name: Which.
        channels: Channels of the map.
        grid: Positions per axis that the weights of `joint` are made for.
    """
    if name == "joint":
        return JointNorm(channels, grid)
    if name == "group":
        return BiasedMapNorm(channels)
    if name == "instance":
        return InstanceNorm(channels)
    return {"channel": ChannelNorm, "layer": LayerNorm, "map": MapNorm}[name](channels)
