"""An MLP over positions, the same for every channel (MLP-Mixer, ParaMixer)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from medformer.models.backbone.layers import Number
from medformer.models.backbone.mlp import TiedMlp, Tying
from medformer.models.backbone.norms import Grid, resize, stage_grid


class TokenMlp(TiedMlp):
    """Two matrices over all positions with GELU between them, no biases, shared by the channels.

    Tolstikhin et al., MLP-Mixer, NeurIPS 2021; Ota and Taki, 2024. The matrices belong to the positions of a grid. For
    a map of another size they are interpolated linearly over it, and the first is scaled by the ratio of the numbers of
    positions, so that its sums stay as they are.

    Args:
        channels: Channels of the map.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        made_for: Positions per axis that the matrices are made for, where the network says it.
        grid: The same on the finest map, halved from stage to stage; None for those of 224 px or 96 voxels.
        tying: What the second matrix is.
        hidden: Rows of the first matrix; None for half of the channels.
    """

    optional_weights = ("fc1.weight", "fc2.weight")

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        stage: int,
        made_for: Sequence[int] | None = None,
        tying: Tying | None = None,
        grid: Grid = None,
        hidden: Number | None = None,
    ) -> None:
        positions = tuple(made_for) if made_for and grid is None else stage_grid(spatial_dims, stage, grid)
        super().__init__(math.prod(positions), hidden or max(1, channels // 2), tying or Tying())
        self.grid = positions

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        positions = x.flatten(2)
        scale = self.fc1.in_features / positions.shape[-1]
        first = resize(self.fc1.weight.unflatten(1, self.grid), size).flatten(1) * scale
        second = resize(self.second().T.unflatten(1, self.grid), size).flatten(1).T
        return F.linear(F.gelu(F.linear(positions, first)), second).unflatten(2, size)
