"""A MetaFormer whose tokens are brain regions, over any set of atlases at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.models.connectome.inputs import module_key
from medformer.models.connectome.region_encoder import RegionDecoder, RegionEncoder


class AtlasFusion(nn.Module):
    """A vote of all regions of all atlases, `{atlas: (B, regions, width)} -> (B, classes)`.

    Every region has a linear read-out of its own, as regions are not interchangeable the way patches of an image are.
    The votes start at zero. Attention pooling, one softmax over the
    regions of all atlases, decides how much each vote counts in this subject. A bias per atlas, which starts at minus
    the logarithm of its number of regions, gives each atlas the same weight at first, however finely it cuts the brain.
    """

    def __init__(self, regions: Mapping[str, int], width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.atlases = tuple(regions)
        # With tokens of unit variance and even attention, it sets how fast the sum of all votes learns.
        self.gain = 2.0 * math.sqrt(sum(regions.values()) / width)
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.query.weight)
        keys = {module_key(atlas): size for atlas, size in regions.items()}
        self.atlas_bias = nn.ParameterDict({key: nn.Parameter(torch.tensor(-math.log(n))) for key, n in keys.items()})
        self.votes = nn.ParameterDict({key: nn.Parameter(torch.zeros(n, width, classes)) for key, n in keys.items()})
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        scores = [self.query(features[atlas]) + self.atlas_bias[module_key(atlas)] for atlas in self.atlases]
        weights = torch.softmax(torch.cat(scores, dim=1), dim=1).split([score.shape[1] for score in scores], dim=1)
        logits = self.bias
        for atlas, weight in zip(self.atlases, weights, strict=True):
            weighted = self.dropout(features[atlas] * (weight * self.gain))
            logits = logits + weighted.flatten(1) @ self.votes[module_key(atlas)].flatten(0, 1)
        return logits


class RoiMetaFormer(ConnectomeClassifier):
    """Rows of each atlas's matrix as tokens, the shared 1-D backbone, a weighted vote across atlases.

    Args:
        regions: Regions of each atlas.
        diagonal: The connections include the diagonal of the matrix; without it a row's own element is zero.
        classes: Logits.
        width: Channels of a token.
        depth: Blocks.
        mixer: Token mixer, a name from `MIXERS`.
        dropout: Rate on the tokens before they vote.
        drop_path: Stochastic depth of the last block.
        drop_regions: Share of regions that is hidden from all others in a training step.

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
        drop_regions: float = 0.2,
    ) -> None:
        super().__init__()
        self.regions, self.diagonal, self.width = dict(regions), diagonal, width
        self.encoder = RegionEncoder(
            regions,
            diagonal=diagonal,
            width=width,
            depth=depth,
            mixer=mixer,
            drop_path=drop_path,
            drop_regions=drop_regions,
        )
        self.fusion = AtlasFusion(regions, width, classes, dropout)

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.fusion(features)
        return logits

    def decoder(self) -> nn.Module:
        return RegionDecoder(self.regions, diagonal=self.diagonal, width=self.width)
