"""Causal mixers of ordered sequences, in which a position sees itself and what came before (decision models)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import Few, Number, Pointwise, full_precision, wide, within_half
from medformer.models.backbone.mixers.scan.recurrence import linear_scan
from medformer.models.backbone.norms import ChannelNorm

_FIRST_STEPS = (1e-3, 1e-1)


class DecisionConvFormer(nn.Module):
    """A depthwise causal convolution with weights of its own for each kind of token, `(B, C, T) -> (B, C, T)`.

    Kim et al., Decision ConvFormer, ICLR 2024: tokens take turns (return, state, action), and each kind has its filter.
    The published code computes every filter at every position and keeps a third; here each is computed where it counts.

    Args:
        channels: Channels of the sequence.
        window: Positions that a position sees, itself among them.
        phases: Kinds of tokens that take turns.
    """

    def __init__(self, channels: int, *, window: Number = 6, phases: Few = 3) -> None:
        super().__init__()
        self.window = window
        self.filters = nn.ModuleList(
            nn.Conv1d(channels, channels, window, stride=phases, groups=channels) for _ in range(phases)
        )

    def forward(self, x: Tensor) -> Tensor:
        length, phases = x.shape[-1], len(self.filters)
        # To the right, so that all phases have as many positions.
        padded = F.pad(x, (self.window - 1, -length % phases))
        each = [filter_(padded[..., phase:]) for phase, filter_ in enumerate(self.filters)]
        count = min(part.shape[-1] for part in each)
        return torch.stack([part[..., :count] for part in each], -1).flatten(-2)[..., :length]


class DecisionMetaMamba(nn.Module):
    """A linear layer over a causal window, then a causal selective scan of it, `(B, C, T) -> (B, C, T)`.

    Kim, Decision MetaMamba, 2024. The paper adds each of the two to the input by itself; a token mixer is one branch,
    so that here the scan is added to the window's result.

    Args:
        channels: Channels of the sequence.
        window: Positions that the linear layer sees.
        states: States of each channel of the scan.
    """

    def __init__(self, channels: int, *, window: Number = 6, states: Number = 16) -> None:
        super().__init__()
        self.window = window
        self.local = nn.Conv1d(channels, channels, window, bias=False)
        self.norm = ChannelNorm(channels)
        self.scan = CausalScan(channels, states=states)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local(F.pad(x, (self.window - 1, 0)))
        mixed: Tensor = local + self.scan(self.norm(local))
        return mixed


class CausalScan(nn.Module):
    """Mamba's block without expansion, `(B, C, T) -> (B, C, T)` (Gu and Dao, Mamba, 2023, algorithm 2).

    Args:
        channels: Channels of the sequence.
        states: States of each channel.
        window: Of the causal convolution before the scan.
    """

    def __init__(self, channels: int, *, states: int = 16, window: int = 4) -> None:
        super().__init__()
        self.window, rank = window, math.ceil(channels / 16)
        self.split = (rank, states, states)
        self.in_proj = Pointwise(channels, 2 * channels, bias=False)
        self.conv = nn.Conv1d(channels, channels, window, groups=channels)
        self.parts = Pointwise(channels, sum(self.split), bias=False)
        self.step = Pointwise(rank, channels, bias=False)
        low, high = (math.log(step) for step in _FIRST_STEPS)
        steps = torch.empty(channels).uniform_(low, high).exp()
        # Parameters, and no biases of layers, which the first weights of a backbone would set to 0: then every step
        # would begin at 0.69 in place of 0.001 to 0.1.
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(channels, 1))
        self.own = nn.Parameter(torch.ones(channels))
        self.out_proj = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.in_proj(x).chunk(2, 1)
        values = F.silu(self.conv(F.pad(values, (self.window - 1, 0))))
        steps, write, read = self.parts(values).split(self.split, 1)
        scanned = self._scan(values, self.step(steps), write, read)
        return within_half(self.out_proj, scanned * F.silu(gate), gate.dtype)

    def _scan(self, values: Tensor, steps: Tensor, write: Tensor, read: Tensor) -> Tensor:
        with full_precision(values.device):
            kind = torch.promote_types(values.dtype, torch.float32)
            x, raw, b, c = (part.to(kind).transpose(1, 2) for part in (values, steps, write, read))
            size = F.softplus(raw + self.step_bias)
            # (B, T, C, states)
            decay = (size.unsqueeze(-1) * -self.log_decay.exp()).exp_()
            states = linear_scan(decay, (size * x).unsqueeze(-1) * b.unsqueeze(2))
            y = (states @ c.unsqueeze(-1)).squeeze(-1) + self.own * x
        return y.transpose(1, 2).to(wide(values).dtype)
