"""Global self-attention over all positions (the last two stages of CAFormer)."""

from __future__ import annotations

from torch import Tensor, nn

from medformer.models.backbone.layers import Number, Pointwise, attend, head_count


class Attention(nn.Module):
    """Multi-head self-attention, no biases, no position encoding (CAFormer).

    Args:
        channels: Channels of the map.
        heads: Number of heads; None for one for every 32 channels.
    """

    def __init__(self, channels: int, *, heads: Number | None = None) -> None:
        super().__init__()
        self.heads = head_count(channels, heads)
        self.qkv = Pointwise(channels, 3 * channels, bias=False)
        self.proj = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, 1)
        out: Tensor = self.proj(attend(query, key, value, self.heads))
        return out
