"""Learned frequency filters: one for each channel (GFNet, GFFormer), or a few that each sample mixes (DFFormer)."""

from __future__ import annotations

from torch import Tensor, nn

from medformer.models.backbone.frequency_filters import FrequencyFilters, Keeps
from medformer.models.backbone.layers import Few, Pointwise, channels_last, within_half
from medformer.models.backbone.mlp import StarReLU
from medformer.models.backbone.norms import Grid


class _LearnedFilter(nn.Module):
    """Pointwise C->2C, StarReLU, filters, pointwise 2C->C; no biases (Tatsunami and Taki, AAAI 2024).

    `mixed` are the number of filters that all channels share and the reduction of the network that mixes them; None
    gives each channel a filter.
    """

    def __init__(
        self,
        channels: int,
        mixed: tuple[int, int] | None,
        expansion: int,
        *,
        spatial_dims: int,
        stage: int,
        grid: Grid,
        keeps: Keeps,
        wrap: bool,
    ) -> None:
        super().__init__()
        count = hidden = expansion * channels
        self.pwconv1 = Pointwise(channels, hidden, bias=False)
        self.act1 = StarReLU()
        self.routing: nn.Sequential | None = None
        if mixed:
            count, routed = mixed[0], max(1, channels // mixed[1])
            self.routing = nn.Sequential(
                nn.Linear(channels, routed, bias=False), StarReLU(), nn.Linear(routed, count * hidden, bias=False)
            )
        self.filters = FrequencyFilters(
            count, shared=bool(mixed), spatial_dims=spatial_dims, stage=stage, grid=grid, keeps=keeps, wrap=wrap
        )
        self.pwconv2 = Pointwise(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = self.pwconv1(x)
        hidden, shares = self.act1(before), None
        if self.routing is not None:
            first, act, last = self.routing
            routed = first(x.flatten(2).mean(-1))
            logits = within_half(last, act(routed), routed.dtype)
            shares = logits.unflatten(1, (-1, hidden.shape[1])).softmax(1)
        return within_half(self.pwconv2, channels_last(self.filters(hidden, shares)), before.dtype)


class GlobalFilter(_LearnedFilter):
    """One filter for each channel (Rao et al., NeurIPS 2021), between the layers of a `DynamicFilter`.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        expansion: Filtered channels for one of the map.
        grid: See `FrequencyFilters`, also for what follows.
        keeps: See there.
        wrap: See there.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        stage: int,
        expansion: Few = 2,
        grid: Grid = None,
        keeps: Keeps = "kernel",
        wrap: bool = True,
    ) -> None:
        super().__init__(
            channels, None, expansion, spatial_dims=spatial_dims, stage=stage, grid=grid, keeps=keeps, wrap=wrap
        )


class DynamicFilter(_LearnedFilter):
    """A few filters that all channels share (Tatsunami and Taki, AAAI 2024).

    The shares of a channel in them are a softmax of what a small network makes of the mean over all positions of the
    input.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        filters: Number of filters.
        reduction: Channels of the map for one hidden channel of the small network.
        expansion: Filtered channels for one of the map.
        grid: See `FrequencyFilters`, also for what follows.
        keeps: See there.
        wrap: See there.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        stage: int,
        filters: Few = 4,
        reduction: Few = 4,
        expansion: Few = 2,
        grid: Grid = None,
        keeps: Keeps = "kernel",
        wrap: bool = True,
    ) -> None:
        super().__init__(
            channels,
            (filters, reduction),
            expansion,
            spatial_dims=spatial_dims,
            stage=stage,
            grid=grid,
            keeps=keeps,
            wrap=wrap,
        )
