"""Hidden-state mixing: all positions are gathered in a few states, mixed there, and read out again (EfficientViM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import (
    KernelSize,
    Number,
    Pointwise,
    channels_last,
    full_precision,
    same_convolution,
)


class HiddenStateMixing(nn.Module):
    """The hidden-state mixer of state-space duality: its cost grows with the positions times the states.

    Lee et al., EfficientViM, CVPR 2025, eq. 8-10: `B, C, dt` of every position and state come from a pointwise layer
    and a depthwise convolution, `A = softmax(dt + a)` over positions, the states are `h = x (A B)'`, they are gated by
    `silu(z)` of themselves, and the map is `h C`. The softmax takes `a` away again; it is kept because the published
    weights have it.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        kernel_size: Of the depthwise convolution.
        states: How many the positions are gathered in.
    """

    def __init__(self, channels: int, *, spatial_dims: int, kernel_size: KernelSize = 3, states: Number = 49) -> None:
        super().__init__()
        self.states = states
        self.parameters_of_states = Pointwise(channels, 3 * states, bias=False)
        self.dwconv = same_convolution(spatial_dims, 3 * states, 3 * states, kernel_size, groups=3 * states)
        self.gate = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels, bias=False)
        self.a = nn.Parameter(torch.empty(states).uniform_(1.0, 16.0))
        self.skip = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        found = channels_last(self.dwconv(channels_last(self.parameters_of_states(x)))).flatten(2)
        if found.dtype != torch.float16:
            return self._mix(x, found)
        # Products of four parts of the input leave the range of float16 soon.
        with full_precision(x.device):
            return self._mix(x.float(), found.float())

    def _mix(self, x: Tensor, found: Tensor) -> Tensor:
        write, read, step = found.split(self.states, 1)
        weights = torch.softmax((step + self.a[:, None]).to(torch.promote_types(step.dtype, torch.float32)), -1)
        weights = weights.to(write.dtype) * write
        # (B, states, C) = (B, states, positions) (B, positions, C)
        hidden = weights @ x.flatten(2).transpose(1, 2)
        state, gate = self.gate(hidden).chunk(2, -1)
        mixed = self.proj(state * F.silu(gate) + state * self.skip)
        return (read.transpose(1, 2) @ mixed).transpose(1, 2).unflatten(2, x.shape[2:])
