"""A MetaFormer whose tokens are brain regions, over any set of atlases at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.connectome.classifier import (
    ConnectomeClassifier,
    check_edges,
    edge_counts,
    module_key,
    row_indices,
)
from medformer.models.linear import Linear

# Untrained mixing of a few hundred noisy subjects' regions only blurs them; the blocks start close to the identity.
LAYER_SCALE = 0.1
HEADS = 4


class RegionTokens(nn.Module):
    """An atlas's connections to one token per region, `(B, connections) -> (B, regions, width)`.

    A token is the projected row of the symmetric matrix plus a vector that says which region it is. While training,
    some regions are hidden from all the others: their column is zero, and what remains is enlarged, as by dropout. Half
    as many are left out as tokens.
    """

    index: Tensor

    def __init__(self, regions: int, width: int, *, diagonal: bool, drop_regions: float) -> None:
        super().__init__()
        self.drop_regions = drop_regions
        self.pad = not diagonal
        self.register_buffer("index", row_indices(regions, diagonal).flatten(), persistent=False)
        self.regions = regions
        self.projection = Linear(regions, width, bias=False)
        self.embedding = nn.Parameter(torch.empty(regions, width))
        nn.init.normal_(self.projection.weight, std=regions**-0.5)
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, edges: Tensor) -> Tensor:
        padded = F.pad(edges, (0, 1)) if self.pad else edges
        rows = padded.index_select(1, self.index).unflatten(1, (self.regions, self.regions))
        dropping = self.training and self.drop_regions > 0
        if dropping:
            rows = rows * _kept(len(rows), self.regions, self.drop_regions, rows).unsqueeze(1)
        tokens: Tensor = self.projection(rows) + self.embedding
        if dropping:
            tokens = tokens * _kept(len(rows), self.regions, self.drop_regions / 2, tokens).unsqueeze(2)
        return tokens


def _kept(subjects: int, regions: int, rate: float, like: Tensor) -> Tensor:
    """Zeros with probability `rate`, else 1 / (1 - rate), (subjects, regions)."""
    return (torch.rand(subjects, regions, device=like.device) >= rate).to(like.dtype) / (1.0 - rate)


def region_backbone(architecture: Architecture) -> MetaFormer:
    """Return the shared backbone with one stage that neither reduces the tokens nor changes their channels."""
    stage = replace(architecture, layer_scale=LAYER_SCALE, stem="none")
    return MetaFormer(1, stage.channels[0], stage, strides=[1], init="fan_in")


class RegionEncoder(nn.Module):
    """Every atlas through its own tokens and one backbone, `{atlas: (B, connections)} -> {atlas: (B, regions, width)}`.

    The backbone sees one atlas at a time, so that atlases of any size and number can be put together and a mixer of
    neighbors never mixes across the border of two atlases. What is learned about mixing serves all of them.
    """

    def __init__(
        self,
        regions: Mapping[str, int],
        *,
        diagonal: bool,
        width: int,
        drop_regions: float,
        backbone: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.counts = edge_counts(regions, diagonal)
        self.tokens = nn.ModuleDict(
            {
                module_key(atlas): RegionTokens(count, width, diagonal=diagonal, drop_regions=drop_regions)
                for atlas, count in regions.items()
            }
        )
        self.backbone = backbone()

    def forward(self, edges: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_edges(edges, self.counts)
        features = {}
        for atlas in self.counts:
            tokens = self.tokens[module_key(atlas)](edges[atlas])
            mixed = self.backbone(tokens.movedim(-1, 1))
            # A backbone returns the map of each of its stages, a segmentation network one map.
            features[atlas] = (mixed if isinstance(mixed, Tensor) else mixed[-1]).movedim(1, -1)
        return features


class RegionDecoder(nn.Module):
    """Tokens back to connections, `{atlas: (B, regions, width)} -> {atlas: (B, connections)}`.

    Each region predicts its row of the matrix; a connection is the mean of what its two regions say.

    Args:
        across: Whether each region first looks at the regions of all atlases, which is how a hidden atlas is rebuilt:
            of its regions the tokens still say which they are.
    """

    def __init__(self, regions: Mapping[str, int], *, diagonal: bool, width: int, across: bool = False) -> None:
        super().__init__()
        self.atlases = tuple(regions)
        self.look = LookAcross(width) if across else None
        self.rows = nn.ModuleDict(
            {module_key(atlas): RowDecoder(count, diagonal, width) for atlas, count in regions.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.look is not None:
            features = self.look(features)
        return {atlas: self.rows[module_key(atlas)](features[atlas]) for atlas in self.atlases}


class LookAcross(nn.Module):
    """Attention from each token to those of all atlases, added to it; `{atlas: (B, regions, width)}` both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, math.gcd(width, HEADS), batch_first=True)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        normed = {atlas: self.norm(tokens) for atlas, tokens in features.items()}
        seen = torch.cat(list(normed.values()), dim=1)
        return {
            atlas: tokens + self.attention(normed[atlas], seen, seen, need_weights=False)[0]
            for atlas, tokens in features.items()
        }


class RowDecoder(nn.Module):
    """One atlas's tokens to connections, `(B, regions, width) -> (B, connections)`."""

    upper: Tensor
    lower: Tensor

    def __init__(self, regions: int, diagonal: bool, width: int) -> None:
        super().__init__()
        row, column = torch.triu_indices(regions, regions, offset=0 if diagonal else 1)
        self.register_buffer("upper", row * regions + column, persistent=False)
        self.register_buffer("lower", column * regions + row, persistent=False)
        self.projection = Linear(width, regions)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.projection(tokens).flatten(1)
        return (rows.index_select(1, self.upper) + rows.index_select(1, self.lower)) / 2


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
        self.queries = Linear(width, QUERIES, bias=False)
        self.fuse = Linear(QUERIES * width * len(regions), HIDDEN)
        self.pooled = Linear(HIDDEN, classes)
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

    def decoder(self, *, across: bool = False) -> nn.Module:
        return RegionDecoder(self.regions, diagonal=self.diagonal, width=self.width, across=across)
