"""A learned frequency filter for each channel (GFNet; here as GFFormer has it)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from medformer.models.backbone.frequency_filters import FrequencyFilters, Keeps
from medformer.models.backbone.layers import Pointwise, channels_last
from medformer.models.backbone.mlp import StarReLU
from medformer.models.backbone.norms import Grid


class GlobalFilter(nn.Module):
    """Pointwise C->2C, StarReLU, one filter for each channel, pointwise 2C->C; no biases.

    The filter is that of Rao et al., NeurIPS 2021; the layers around it are those of Tatsunami and Taki, AAAI 2024.

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
        expansion: Annotated[int, Field(ge=1, le=64)] = 2,
        grid: Grid = None,
        keeps: Keeps = "kernel",
        wrap: bool = True,
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        self.pwconv1 = Pointwise(channels, hidden, bias=False)
        self.act1 = StarReLU()
        self.filters = FrequencyFilters(
            hidden, shared=False, spatial_dims=spatial_dims, stage=stage, grid=grid, keeps=keeps, wrap=wrap
        )
        self.pwconv2 = Pointwise(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.pwconv2(channels_last(self.filters(self.act1(self.pwconv1(x)))))
        return mixed
