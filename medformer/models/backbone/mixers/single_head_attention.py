"""Single-head attention on a part of the channels (SHViT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.batch_normed import ConvNorm
from medformer.models.backbone.layers import Number, Pointwise, attend
from medformer.models.backbone.norms import make_norm

_SHARE = 4.67
"""The paper lets one channel in 4.67 attend."""


class SingleHeadAttention(nn.Module):
    """One head attends over the first channels, the others pass; ReLU and a pointwise layer join them.

    Yun and Ro, SHViT, CVPR 2024, eq. 2-3. By default the batch norms of the paper behind the pointwise layers are
    biases here, so that a sample does not depend on others while training.

    Args:
        channels: Channels of the map.
        attending: Channels that attend; None for one in 4.67, as in the paper.
        spatial_dims: 1, 2 or 3.
        key_channels: Channels of queries and of keys.
        batch_norm: Whether batch norms stand behind the layers, as in the paper.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        attending: Number | None = None,
        key_channels: Number = 16,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        width = attending or max(1, round(channels / _SHARE))
        if width > channels:
            raise ValueError(f"attending: got {width}, expected at most the {channels} channels of the map")
        self.split = (width, channels - width)
        self.widths = (key_channels, key_channels, width)
        self.norm = make_norm("group", width)
        self.qkv: nn.Module
        self.proj: nn.Module
        if batch_norm:
            self.qkv = ConvNorm(spatial_dims, width, sum(self.widths))
            self.proj = ConvNorm(spatial_dims, channels, channels, silent=True)
        else:
            self.qkv, self.proj = Pointwise(width, sum(self.widths)), Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split(self.split, 1)
        query, key, value = self.qkv(self.norm(first)).split(self.widths, 1)
        out: Tensor = self.proj(F.relu(torch.cat((attend(query, key, value, 1), rest), 1)))
        return out
