"""D-Former: a U-shaped transformer of local windows and of windows spread over the whole map."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from medformer.config.shared import ModelConfig
from medformer.models.backbone.blocks import Architecture, MetaFormerBlock, initialize
from medformer.models.backbone.downsampling import Downsample
from medformer.models.backbone.layers import CONV, Pointwise, channels_last
from medformer.models.backbone.mixers.window_attention import GridAttention, WindowAttention
from medformer.models.backbone.norms import LayerNorm
from medformer.models.backbone.recompute import run_block
from medformer.models.networks.grid import Grid, PaddedNetwork

CHANNELS, DEPTHS = (96, 192, 384, 768), (2, 2, 6, 2)
# Along the axis whose positions lie furthest apart (the slices of the paper), then along the others.
PATCH, WINDOW = (2, 4, 4), (2, 8, 8)
_BLOCK = Architecture((), norm="layer", activation="gelu", res_scale_from=None)


def dformer(config: ModelConfig, grid: Grid) -> nn.Module:
    """Return D-Former with its published widths, depths and windows, `(B, in, *S) -> (B, out, *S)` logits."""
    network = DFormer(
        grid.spatial_dims,
        grid.in_channels,
        grid.out_channels,
        slices=slice_axis(grid.spacing),
        drop_path=config.drop_path,
        deep_supervision=config.deep_supervision,
        checkpointing=config.checkpointing,
    )
    initialize(network, config.init)
    network.embed.draw_bias()
    return PaddedNetwork(network, network.divisors)


def slice_axis(spacing: Sequence[float] | None) -> int:
    """Return the axis along which positions lie more than twice as far apart as along another; else the first."""
    if spacing is None or max(spacing) <= 2 * min(spacing):
        return 0
    return list(spacing).index(max(spacing))


class DFormer(nn.Module):
    """A transformer with a decoder like its encoder; blocks take turns in local and in spread windows.

    Wu et al., D-Former: A U-shaped Dilated Transformer for 3D Medical Image Segmentation, Neural Computing and
    Applications 2023. The skip of a level is what enters its stage. Of the three heads of the published code, of which
    one gets no gradient, there are the one at full size and, with deep supervision, that at half of it; the number
    of classes is not fixed to 14, windows are padded and masked along every axis, and a small map changes nothing for
    the maps after it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        out_channels: Logits of each position.
        slices: In 3-D, the axis of the slices, which patches and windows span less of.
        drop_path: Stochastic depth of the last block of the encoder.
        deep_supervision: While training also give logits at half the size.
        checkpointing: Recompute blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        slices: int = 0,
        drop_path: float = 0.0,
        deep_supervision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        patch, window = (_turned(sizes, spatial_dims, slices) for sizes in (PATCH, WINDOW))
        self.checkpointing = checkpointing
        self.divisors = tuple(step * 2 ** (len(DEPTHS) - 1) for step in patch)
        first, last = CHANNELS[0], CHANNELS[-1]
        self.embed = Downsample(spatial_dims, in_channels, first, None, patch, "post", "layer")
        rates = iter(torch.linspace(0.0, drop_path, sum(DEPTHS), device="cpu").tolist())
        self.encoder = nn.ModuleList(
            _Stage(spatial_dims, width, window, [next(rates) for _ in range(depth)])
            for width, depth in zip(CHANNELS, DEPTHS, strict=True)
        )
        self.merges = nn.ModuleList(_Merge(spatial_dims, width) for width in CHANNELS[:-1])
        self.norm = LayerNorm(last)
        halved = (2,) * spatial_dims
        deep_first = tuple(reversed(CHANNELS[:-1]))
        self.expands = nn.ModuleList(_Expand(2 * width, width, halved) for width in deep_first)
        self.joins = nn.ModuleList(Pointwise(2 * width, width) for width in deep_first)
        self.decoder = nn.ModuleList(
            _Stage(spatial_dims, width, window, [0.0] * depth)
            for width, depth in zip(deep_first, reversed(DEPTHS[:-1]), strict=True)
        )
        self.out_norm = LayerNorm(first)
        self.head = _Head(first, out_channels, patch)
        self.coarse_head = _Head(CHANNELS[1], out_channels, patch) if deep_supervision else None

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        recompute = self.checkpointing and self.training
        x = self.embed(channels_last(x))
        skips = []
        for stage, merge in zip(self.encoder[:-1], self.merges, strict=True):
            skips.append(x)
            x = merge(stage(x, recompute))
        x = self.norm(self.encoder[-1](x, recompute))
        maps: list[Tensor] = []
        for expand, join, stage in zip(self.expands, self.joins, self.decoder, strict=True):
            x = stage(join(torch.cat((expand(x), skips.pop()), 1)), recompute)
            maps.append(x)
        logits: Tensor = self.head(self.out_norm(x))
        if self.coarse_head is None or not self.training:
            return logits
        return [logits, self.coarse_head(maps[-2])]


def _turned(sizes: Sequence[int], spatial_dims: int, slices: int) -> tuple[int, ...]:
    """Sizes of slices and of the axes inside them, in the order of the axes of a map."""
    first, *inside = sizes
    return tuple(inside) if spatial_dims == 2 else (*inside[:slices], first, *inside[slices:])


class _Stage(nn.Module):
    """A depthwise convolution that tells positions apart, then blocks in turns, `(B, C, *S) -> (B, C, *S)`."""

    def __init__(self, spatial_dims: int, channels: int, window: Sequence[int], drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.position = CONV[spatial_dims](channels, channels, 3, padding=1, groups=channels)
        self.blocks = nn.ModuleList()
        for at, rate in enumerate(drop_paths):
            kind = GridAttention if at % 2 else WindowAttention
            mixer = kind(channels, spatial_dims=spatial_dims, window=window, bias=True)
            self.blocks.append(MetaFormerBlock(channels, mixer, _BLOCK, drop_path=rate, res_scale=False))

    def forward(self, x: Tensor, recompute: bool) -> Tensor:
        x = x + channels_last(self.position(x))
        for block in self.blocks:
            x = run_block(block, x, recompute)[0]
        return x


class _Merge(nn.Module):
    """Each 2 x ... x 2 neighbors become one position of twice the channels, `(B, C, *S) -> (B, 2C, *S / 2)`."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        joined = channels * 2**spatial_dims
        self.norm = LayerNorm(joined)
        self.reduce = Pointwise(joined, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        dims = x.dim() - 2
        cut = x.reshape(x.shape[0], x.shape[1], *(part for n in x.shape[2:] for part in (n // 2, 2)))
        inner, outer = range(3, 2 * dims + 2, 2), range(2, 2 * dims + 2, 2)
        joined = cut.permute(0, *inner, 1, *outer).flatten(1, dims + 1)
        out: Tensor = self.reduce(self.norm(joined))
        return out


class _Expand(nn.Module):
    """A pointwise layer whose channels become neighbors, then a norm, `(B, C_in, *S) -> (B, C_out, *S * factors)`."""

    def __init__(self, in_channels: int, out_channels: int, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.widen = Pointwise(in_channels, out_channels * prod(self.factors), bias=False)
        self.norm = LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        dims, size = x.dim() - 2, x.shape[2:]
        wide = self.widen(x).unflatten(1, (*self.factors, -1))
        # (B, *factors, C, *S) -> (B, C, S_1, factor_1, ...)
        pairs = (axis for at in range(dims) for axis in (dims + 2 + at, 1 + at))
        spread = wide.permute(0, dims + 1, *pairs)
        shape = (n * factor for n, factor in zip(size, self.factors, strict=True))
        out: Tensor = self.norm(spread.reshape(x.shape[0], -1, *shape))
        return out


class _Head(nn.Module):
    """Logits at the size of the patches, `(B, C, *S) -> (B, out, *S * patch)`."""

    def __init__(self, channels: int, out_channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.expand = _Expand(channels, channels, patch)
        self.logits = Pointwise(channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.expand(x))
        return logits
