"""A selective scan in both directions of every axis (Hydra)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import (
    KernelSize,
    Number,
    Pointwise,
    full_precision,
    odd_kernel,
    wide,
    within_half,
)
from medformer.models.backbone.mixers.scan.recurrence import state_space_scan

_EXPANSION = 2
_FIRST_STEPS = (1e-3, 1e-1)
"""Range of the first step sizes, drawn evenly in the logarithm (Gu and Dao, Mamba, 2023)."""
_FIRST_DECAYS = (1.0, 16.0)


class SelectiveScan(nn.Module):
    """States run along an axis forward and backward, written and read as the input says; gated, no position encoding.

    Hwang et al., Hydra: Bidirectional State Space Models Through Generalized Matrix Mixers, NeurIPS 2024: each scan is
    shifted by one position, and what a position gives itself is a layer of its own, so that the whole is a
    quasiseparable matrix. In 2-D and 3-D the scan runs along each axis, with convolution, decays and steps of its own,
    and the results are averaged; in 1-D the parameters are those of the paper.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        kernel_size: Of the depthwise convolution along each axis before its scan.
        states: States of each channel.
        head_channels: Channels with one decay; fewer where they do not divide twice the channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        kernel_size: KernelSize = 7,
        states: Number = 64,
        head_channels: Number = 64,
    ) -> None:
        super().__init__()
        inner = _EXPANSION * channels
        self.states, self.head_channels = states, math.gcd(inner, head_channels)
        heads = inner // self.head_channels
        scanned = inner + 4 * states
        self.split = (inner, scanned, 2 * heads)
        self.in_proj = Pointwise(channels, sum(self.split), bias=False)
        sizes, _ = odd_kernel(kernel_size, spatial_dims)
        self.convs = nn.ModuleList(
            nn.Conv1d(scanned, scanned, size, padding=size // 2, groups=scanned) for size in sizes
        )
        low, high = (math.log(step) for step in _FIRST_STEPS)
        steps = torch.empty(spatial_dims, heads).uniform_(low, high).exp()
        # The inverse of softplus: the steps begin as drawn.
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.log_decay = nn.Parameter(torch.empty(spatial_dims, heads).uniform_(*_FIRST_DECAYS).log())
        self.own = Pointwise(inner, heads, bias=False)
        # A parameter, and no bias of the layer, which the first weights of a backbone would set to 0.
        self.own_bias = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(inner))
        self.out_proj = Pointwise(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, scanned, steps = self.in_proj(x).split(self.split, 1)
        mixed = [self._along(axis, convolution, scanned, steps) for axis, convolution in enumerate(self.convs)]
        mean = sum(mixed[1:], mixed[0]) / len(mixed)
        normed = F.rms_norm(mean.movedim(1, -1), self.norm.shape, self.norm, 1e-5).movedim(-1, 1)
        return within_half(self.out_proj, wide(normed.to(gate.dtype)) * F.silu(gate), gate.dtype)

    def _along(self, axis: int, convolution: nn.Module, scanned: Tensor, steps: Tensor) -> Tensor:
        """Scan along one axis: `(B, C, *S)` to `(B, inner channels, *S)`."""
        last = axis + 2
        moved = scanned.movedim(last, -1)
        # Every line of the axis is a sequence of its own, (lines, C, T).
        lines = F.silu(convolution(_lines(moved)))
        inner, states = self.split[0], self.states
        values, forward, backward = lines.split((inner, 2 * states, 2 * states), 1)
        factor = self.own(values) + self.own_bias[:, None]
        own = wide(values) * factor.repeat_interleave(self.head_channels, 1)
        ahead, back = _lines(steps.movedim(last, -1)).chunk(2, 1)
        both = self._scan(values, ahead, forward, axis) + self._scan(
            values.flip(-1), back.flip(-1), backward.flip(-1), axis
        ).flip(-1)
        mixed = (both + own).unflatten(0, (scanned.shape[0], -1)).transpose(1, 2)
        return mixed.reshape(scanned.shape[0], inner, *moved.shape[2:]).movedim(-1, last)

    def _scan(self, values: Tensor, steps: Tensor, states: Tensor, axis: int) -> Tensor:
        """Scan forward and shift by one position, `(lines, C, T)`."""
        with full_precision(values.device):
            kind = torch.promote_types(values.dtype, torch.float32)
            x, raw, parts = (part.to(kind).transpose(1, 2) for part in (values, steps, states))
            size = F.softplus(raw + self.step_bias[axis])
            write, read = parts.chunk(2, -1)
            heads = x.unflatten(-1, (-1, self.head_channels)) * size.unsqueeze(-1)
            y = state_space_scan(heads, -self.log_decay[axis].exp() * size, write, read)
        return F.pad(y.flatten(2)[:, :-1], (0, 0, 1, 0)).transpose(1, 2).to(wide(values).dtype)


def _lines(x: Tensor) -> Tensor:
    """`(B, C, *others, T)` to `(B * others, C, T)`."""
    return x.flatten(2, -2).transpose(1, 2).flatten(0, 1) if x.dim() > 3 else x
