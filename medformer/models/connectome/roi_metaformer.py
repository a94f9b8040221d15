"""A MetaFormer whose tokens are brain regions, over any set of atlases at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.connectome.classifier import ConnectomeClassifier, module_key
from medformer.models.connectome.region_encoder import RegionDecoder, RegionEncoder

QUERIES = 4
HIDDEN = 16


class AtlasFusion(nn.Module):
    """All regions of all atlases to logits, `{atlas: (B, regions, width)} -> (B, classes)`.

    Two read-outs are added, and both start at zero. In the first every region votes with weights of its own: regions
    are not interchangeable the way patches of an image are. The second is attention pooling: a few learned queries per
    atlas look for what matters in this subject, and what they find in all atlases passes one small network.
    """

    def __init__(self, regions: Mapping[str, int], width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.atlases = tuple(regions)
        # With tokens of unit variance, it sets how fast the sum of all votes learns.
        self.gain = 2.0 / math.sqrt(width * sum(regions.values()))
        self.dropout = nn.Dropout(dropout)
        self.votes = nn.ParameterDict(
            {module_key(atlas): nn.Parameter(torch.zeros(size, width, classes)) for atlas, size in regions.items()}
        )
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, QUERIES, bias=False)
        self.fuse = nn.Linear(QUERIES * width * len(regions), HIDDEN)
        self.pooled = nn.Linear(HIDDEN, classes)
        nn.init.zeros_(self.pooled.weight)
        nn.init.zeros_(self.pooled.bias)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        found, votes = [], []
        for atlas in self.atlases:
            tokens = features[atlas]
            votes.append(self.dropout(tokens).flatten(1) @ self.votes[module_key(atlas)].flatten(0, 1))
            normed = self.norm(tokens)
            attention = torch.softmax(self.queries(normed), dim=1)
            found.append((attention.transpose(1, 2) @ normed).flatten(1))
        hidden = F.gelu(self.fuse(self.dropout(torch.cat(found, dim=1))))
        pooled: Tensor = self.pooled(self.dropout(hidden))
        return pooled + self.gain * torch.stack(votes).sum(0)


class RoiMetaFormer(ConnectomeClassifier):
    """Rows of each atlas's matrix as tokens, the shared 1-D backbone, votes and attention pooling across atlases.

    Args:
        regions: Regions of each atlas.
        diagonal: The connections include the diagonal of the matrix; without it a row's own element is zero.
        classes: Logits.
        width: Channels of a token.
        backbone: Makes the network over the tokens, `(B, width, regions) -> (B, width, regions)`, or to a list of maps
            whose last has this shape.
        dropout: Rate on the tokens before they vote.
        drop_regions: Share of regions that is hidden from all others in a training step.

    Raises:
        DataError: There is no atlas, or one of fewer than two regions.
    """

    def __init__(
        self,
        regions: Mapping[str, int],
        backbone: Callable[[], nn.Module],
        *,
        width: int,
        diagonal: bool = False,
        classes: int = 2,
        dropout: float = 0.3,
        drop_regions: float = 0.2,
    ) -> None:
        super().__init__()
        self.regions, self.diagonal, self.width = dict(regions), diagonal, width
        self.encoder = RegionEncoder(
            regions, diagonal=diagonal, width=width, drop_regions=drop_regions, backbone=backbone
        )
        self.fusion = AtlasFusion(regions, width, classes, dropout)

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.fusion(features)
        return logits

    def decoder(self) -> nn.Module:
        return RegionDecoder(self.regions, diagonal=self.diagonal, width=self.width)
