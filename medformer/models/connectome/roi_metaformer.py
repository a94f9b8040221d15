"""A MetaFormer whose tokens are brain regions, over any set of atlases at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.models.connectome.region_encoder import RegionDecoder, RegionEncoder

QUERIES = 4


class AtlasFusion(nn.Module):
    """Attention pooling over the regions of all atlases together, `{atlas: (B, regions, width)} -> (B, 4 * width)`.

    Learned queries weigh every region of every atlas in one softmax. A bias per atlas, which starts at minus the
    logarithm of its number of regions, gives each atlas the same weight at first, however finely it cuts the brain.
    """

    def __init__(self, regions: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.atlases = tuple(regions)
        self.sizes = tuple(regions.values())
        self.queries = nn.Linear(width, QUERIES, bias=False)
        nn.init.trunc_normal_(self.queries.weight, std=0.02)
        self.atlas_bias = nn.Parameter(torch.tensor([-math.log(size) for size in self.sizes]).repeat(QUERIES, 1))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        tokens = torch.cat([features[atlas] for atlas in self.atlases], dim=1)
        bias = torch.cat([column.expand(size, -1) for column, size in zip(self.atlas_bias.T, self.sizes, strict=True)])
        weights = torch.softmax(self.queries(tokens) + bias, dim=1)
        return (weights.transpose(1, 2) @ tokens).flatten(1)


class RoiMetaFormer(ConnectomeClassifier):
    """Rows of each atlas's matrix as tokens, the shared 1-D backbone, pooling across atlases, a linear head.

    Args:
        regions: Regions of each atlas.
        diagonal: The connections include the diagonal of the matrix; without it a row's own element is zero.
        classes: Logits.
        width: Channels of a token.
        depth: Blocks.
        mixer: Token mixer, a name from `MIXERS`.
        dropout: Rate before the head.
        drop_path: Stochastic depth of the last block.

    Raises:
        DataError: There is no atlas, or one of fewer than two regions.
        UnknownNameError: A mixer that the table does not list.
    """

    def __init__(
        self,
        regions: Mapping[str, int],
        *,
        diagonal: bool = False,
        classes: int = 2,
        width: int = 64,
        depth: int = 2,
        mixer: str = "attention",
        dropout: float = 0.3,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.regions, self.diagonal, self.width = dict(regions), diagonal, width
        self.encoder = RegionEncoder(
            regions, diagonal=diagonal, width=width, depth=depth, mixer=mixer, drop_path=drop_path
        )
        self.fusion = AtlasFusion(regions, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(QUERIES * width, classes)

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.fusion(features)))
        return logits

    def decoder(self) -> nn.Module:
        return RegionDecoder(self.regions, diagonal=self.diagonal, width=self.width)
