"""Random mixing with a frozen matrix (RandFormer), made to work at any input size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import LINEAR
from medformer.models.backbone.norms import Grid, stage_grid


class RandomMixing(nn.Module):
    """Every token becomes a fixed random average of all tokens: frozen `softmax(U(0, 1))`, shared by channels.

    Off the reference size the matrix is resized linearly over its row grid and over its column grid, then its
    rows are scaled to sum to one again, so that it stays an average.

    Args:
        channels: Channels of the map, which do not matter.
        spatial_dims: 1, 2 or 3.
        stage: 0 for the finest.
        grid: Positions per axis of the finest map that the matrix is drawn for, halved from stage to stage; None for
            those of 224 px or 96 voxels.
    """

    optional_weights = ("random_matrix",)

    def __init__(self, channels: int, *, spatial_dims: int, stage: int, grid: Grid = None) -> None:
        super().__init__()
        self.grid = stage_grid(spatial_dims, stage, grid)
        tokens = math.prod(self.grid)
        self.random_matrix = nn.Parameter(torch.softmax(torch.rand(tokens, tokens), dim=-1), requires_grad=False)

    def matrix_for(self, size: tuple[int, ...]) -> Tensor:
        """Return the row-stochastic `(N, N)` matrix for a token grid of `size`, N its number of tokens."""
        if size == self.grid:
            return self.random_matrix
        mode = LINEAR[len(size)]
        columns = F.interpolate(self.random_matrix.unflatten(1, self.grid).unsqueeze(1), size, mode=mode).flatten(1)
        both = F.interpolate(columns.T.unflatten(1, self.grid).unsqueeze(1), size, mode=mode).flatten(1).T
        return both / both.sum(dim=-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix_for(tuple(x.shape[2:])).to(x.dtype)
        tokens = x.movedim(1, -1).flatten(1, -2)
        return (matrix @ tokens).unflatten(1, x.shape[2:]).movedim(-1, 1)
