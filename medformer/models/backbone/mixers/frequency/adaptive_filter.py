"""An adaptive filter of frequencies: the spectrum is masked by a small network of itself (AFFNet)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import Number, full_precision


class FrequencyFilter(nn.Module):
    """`x + irfft(rfft(x) * mask(rfft(x)))`; the mask's complex layers are shared by all frequencies, so any size works.

    Huang et al., Adaptive Frequency Filters As Efficient Global Token Mixers, ICCV 2023, eq. 5-7. The transform takes a
    map as periodic: what leaves it on one side enters on the other. It is computed in single precision under autocast.

    Args:
        channels: Channels of the map.
        groups: Blocks on the diagonal of the two layers; they divide the channels.
        threshold: What the soft shrinkage takes from the mask.

    Raises:
        ValueError: Channels that the groups do not divide.
    """

    def __init__(self, channels: int, *, groups: Number = 8, threshold: NonNegativeFloat = 0.01) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"frequency_filter: got {channels} channels for {groups} groups, expected a multiple")
        width = channels // groups
        self.groups, self.threshold = groups, threshold
        # The last axis is real and imaginary: files of weights and gradients hold real numbers.
        self.weight1 = nn.Parameter(0.02 * torch.randn(groups, width, width, 2))
        self.weight2 = nn.Parameter(0.02 * torch.randn(groups, width, width, 2))
        self.bias1 = nn.Parameter(0.02 * torch.randn(groups, width, 2))
        self.bias2 = nn.Parameter(0.02 * torch.randn(groups, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.dim()))
        with full_precision(x.device):
            full = x if x.dtype == torch.float64 else x.float()
            spectrum = torch.fft.rfftn(full, dim=axes, norm="ortho")
            parts = torch.view_as_real(spectrum.flatten(2).unflatten(1, (self.groups, -1)))
            hidden = F.relu(_complex_layer(parts, self.weight1, self.bias1))
            mask = F.softshrink(_complex_layer(hidden, self.weight2, self.bias2), self.threshold)
            gated = torch.view_as_complex(mask.contiguous()).flatten(1, 2).view(spectrum.shape) * spectrum
            out = full + torch.fft.irfftn(gated, s=x.shape[2:], dim=axes, norm="ortho")
        return out.to(x.dtype)


def _complex_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a complex matrix and bias to each group of channels, `(B, groups, C, N, 2)`."""
    real, imaginary = x.unbind(-1)
    a, b = weight.unbind(-1)

    def product(matrix: Tensor, part: Tensor) -> Tensor:
        return torch.einsum("goi,bgin->bgon", matrix, part)

    both = torch.stack((product(a, real) - product(b, imaginary), product(b, real) + product(a, imaginary)), -1)
    return both + bias[:, :, None]
