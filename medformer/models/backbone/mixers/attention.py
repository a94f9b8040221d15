"""Global self-attention over all positions (the last two stages of CAFormer)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import KernelSize, Pointwise

HEAD_CHANNELS = 32


class Attention(nn.Module):
    """Multi-head self-attention, 32 channels a head, no biases, no position encoding (CAFormer)."""

    def __init__(self, channels: int, *, spatial_dims: int, stage: int, kernel_size: KernelSize | None = None) -> None:
        super().__init__()
        if channels % HEAD_CHANNELS:
            raise ValueError(f"attention: got {channels} channels, expected a multiple of {HEAD_CHANNELS}")
        self.qkv = Pointwise(channels, 3 * channels, bias=False)
        self.proj = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # (B, 3C, *S) -> query, key and value of (B, heads, positions, 32)
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, -1, HEAD_CHANNELS)).transpose(-1, -2)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(1))
        # Through (B, positions, C), which is the memory the attention kernel leaves.
        tokens = mixed.transpose(1, 2).flatten(2)
        out: Tensor = self.proj(tokens.unflatten(1, x.shape[2:]).movedim(-1, 1))
        return out
