"""Additive attention: gated queries and keys are added, and multiply the values (CAS-ViT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import CONV, KernelSize, Pointwise, channels_last, odd_kernel, wide, within_half
from medformer.models.backbone.norms import make_norm


def _depthwise(channels: int, spatial_dims: int, kernel: KernelSize) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    sizes, padding = odd_kernel(kernel, spatial_dims)
    return CONV[spatial_dims](channels, channels, sizes, padding=padding, groups=channels)  # type: ignore[arg-type]


class _Gates(nn.Module):
    """`x` times a number per position, then times a number per channel, both between 0 and 1."""

    def __init__(self, channels: int, spatial_dims: int, kernel: KernelSize) -> None:
        super().__init__()
        self.dwconv = _depthwise(channels, spatial_dims, kernel)
        self.norm = make_norm("group", channels)
        self.position = Pointwise(channels, 1, bias=False)
        self.channel = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        near = F.relu(self.norm(channels_last(self.dwconv(channels_last(x)))))
        x = x * torch.sigmoid(self.position(near))
        axes = tuple(range(2, x.dim()))
        return x * torch.sigmoid(self.channel(x.mean(axes, keepdim=True)))


class AdditiveAttention(nn.Module):
    """`dw(dw(gate(q) + gate(k)) * v)`: similarity is a sum, so that cost grows linearly with the positions.

    Zhang et al., CAS-ViT, 2024, eq. 4-6. The paper's batch norm inside the gates is a group norm here, so that a sample
    does not depend on others.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        kernel_size: Of all depthwise convolutions.
    """

    def __init__(self, channels: int, *, spatial_dims: int, kernel_size: KernelSize = 3) -> None:
        super().__init__()
        self.qkv = Pointwise(channels, 3 * channels, bias=False)
        self.query = _Gates(channels, spatial_dims, kernel_size)
        self.key = _Gates(channels, spatial_dims, kernel_size)
        self.similarity = _depthwise(channels, spatial_dims, kernel_size)
        self.proj = _depthwise(channels, spatial_dims, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, 1)
        similar = self.similarity(channels_last(self.query(query) + self.key(key)))
        product = wide(channels_last(similar)) * value
        return channels_last(within_half(self.proj, product, value.dtype, self.proj.bias))
