"""Self-attention inside windows: of neighbors, or of positions spread over the whole map."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import Number, Pointwise, head_count, per_axis
from medformer.models.backbone.norms import Positions


class WindowAttention(nn.Module):
    """Multi-head self-attention of the positions of one window, no position encoding.

    A window is a block of neighbors (Liu et al., Swin Transformer, ICCV 2021, without shifts). A map that no whole
    number of windows covers is padded, and what is padded is attended by nobody; along an axis shorter than a window
    the window is the axis.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        window: Positions of a window, per axis if given so.
        heads: Number of heads; None for one for every 32 channels.
        bias: Whether the two pointwise layers have biases.
    """

    spread = False

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        window: Positions | Sequence[Positions] = 7,
        heads: Number | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.window = per_axis(window, spatial_dims, "window")
        self.heads = head_count(channels, heads)
        self.qkv = Pointwise(channels, 3 * channels, bias=bias)
        self.proj = Pointwise(channels, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        window = [min(want, have) for want, have in zip(self.window, size, strict=True)]
        counts = [math.ceil(have / want) for want, have in zip(window, size, strict=True)]
        # A position's number along an axis is outer * its inner size + inner.
        outer, inner = (window, counts) if self.spread else (counts, window)
        short = [a * b - have for a, b, have in zip(outer, inner, size, strict=True)]
        pad = [end for missing in reversed(short) for end in (0, missing)]

        def windows(part: Tensor) -> Tensor:
            """`(B, C, *S)` to `(B * windows, C, positions of a window)`."""
            cut = F.pad(part, pad) if any(short) else part
            cut = cut.reshape(-1, part.shape[1], *(n for pair in zip(outer, inner, strict=True) for n in pair))
            first, second = range(2, cut.dim(), 2), range(3, cut.dim(), 2)
            groups, tokens = (second, first) if self.spread else (first, second)
            order = cut.permute(0, *groups, 1, *tokens)
            return order.reshape(-1, part.shape[1], math.prod(window))

        query, key, value = (
            windows(part).unflatten(1, (self.heads, -1)).transpose(-1, -2) for part in self.qkv(x).chunk(3, 1)
        )
        real = windows(x.new_ones(len(x), 1, *size)).unsqueeze(1) > 0 if any(short) else None
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=real)
        # (B * windows, heads, positions, C / heads) back to the map
        joined = mixed.transpose(-1, -2).flatten(1, 2)
        dims = len(size)
        whole = joined.reshape(-1, *counts, x.shape[1], *window)
        groups, tokens = range(1, dims + 1), range(dims + 2, 2 * dims + 2)
        pairs = zip(tokens, groups, strict=True) if self.spread else zip(groups, tokens, strict=True)
        whole = whole.permute(0, dims + 1, *(axis for pair in pairs for axis in pair))
        whole = whole.reshape(-1, x.shape[1], *(a * b for a, b in zip(outer, inner, strict=True)))
        for axis, have in enumerate(size):
            whole = whole.narrow(axis + 2, 0, have)
        out: Tensor = self.proj(whole)
        return out


class GridAttention(WindowAttention):
    """The same for windows of positions at equal distances, which span the whole map (dilated or grid windows).

    Tu et al., MaxViT, ECCV 2022; Wu et al., D-Former, 2023, where they are the global scope.
    """

    spread = True
