"""Random mixing with a frozen matrix (RandFormer), made to work at any input size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import LINEAR

# Token grids of a stage at the reference input: 224 px in 2-D; in 3-D the grid of a 96-voxel cube, because
# 14^3 tokens would mean 7.5 million frozen numbers per block.
_REFERENCE: dict[int, dict[int, tuple[int, ...]]] = {
    1: {0: (3136,), 1: (784,), 2: (196,), 3: (49,)},
    2: {0: (56, 56), 1: (28, 28), 2: (14, 14), 3: (7, 7)},
    3: {0: (24, 24, 24), 1: (12, 12, 12), 2: (6, 6, 6), 3: (3, 3, 3)},
}


class RandomMixing(nn.Module):
    """Every token becomes a fixed random average of all tokens: frozen `softmax(U(0, 1))`, shared by channels.

    Off the reference size the matrix is resized linearly over its row grid and over its column grid, then its
    rows are scaled to sum to one again, so that it stays an average.
    """

    optional_weights = ("random_matrix",)

    def __init__(self, channels: int, *, spatial_dims: int, stage: int) -> None:
        super().__init__()
        self.grid = _REFERENCE[spatial_dims][min(stage, 3)]
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
