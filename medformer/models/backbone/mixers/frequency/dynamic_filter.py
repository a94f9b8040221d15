"""Frequency filters that each sample mixes for itself (DFFormer, the last two stages of CDFFormer)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from medformer.models.backbone.frequency_filters import FrequencyFilters, Keeps
from medformer.models.backbone.layers import Pointwise, channels_last
from medformer.models.backbone.mlp import StarReLU
from medformer.models.backbone.norms import Grid


class DynamicFilter(nn.Module):
    """Pointwise C->2C, StarReLU, filter, pointwise 2C->C; no biases (Tatsunami and Taki, AAAI 2024).

    All channels share a few filters. The shares of a channel in them are a softmax of what a small network makes of the
    mean over all positions of the input.

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
        filters: Annotated[int, Field(ge=1, le=64)] = 4,
        reduction: Annotated[int, Field(ge=1, le=64)] = 4,
        expansion: Annotated[int, Field(ge=1, le=64)] = 2,
        grid: Grid = None,
        keeps: Keeps = "kernel",
        wrap: bool = True,
    ) -> None:
        super().__init__()
        hidden, routed = expansion * channels, max(1, channels // reduction)
        self.pwconv1 = Pointwise(channels, hidden, bias=False)
        self.act1 = StarReLU()
        self.routing = nn.Sequential(
            nn.Linear(channels, routed, bias=False), StarReLU(), nn.Linear(routed, filters * hidden, bias=False)
        )
        self.filters = FrequencyFilters(
            filters, shared=True, spatial_dims=spatial_dims, stage=stage, grid=grid, keeps=keeps, wrap=wrap
        )
        self.pwconv2 = Pointwise(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act1(self.pwconv1(x))
        shares = self.routing(x.flatten(2).mean(-1)).unflatten(1, (-1, hidden.shape[1])).softmax(1)
        mixed: Tensor = self.pwconv2(channels_last(self.filters(hidden, shares)))
        return mixed
