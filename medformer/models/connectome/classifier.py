"""The base of connectome models: an encoder, a head that classifies, and on demand a head that reconstructs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class ConnectomeClassifier(nn.Module, ABC):
    """Maps the connections of each atlas, `{atlas: (B, connections)}`, to logits `(B, classes)`.

    Class 1 is autism and class 0 control. `features` are what the encoder hands to the heads; each model chooses their
    shape.

    Attributes:
        encoder: `{atlas: (B, connections)} -> {atlas: features}`; masked pretraining trains this very module.
    """

    encoder: nn.Module

    @abstractmethod
    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits `(B, classes)` of the encoder's features."""

    @abstractmethod
    def decoder(self) -> nn.Module:
        """Return a new head `{atlas: features} -> {atlas: (B, connections)}`, which is no part of this model."""

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return self.classify(self.encoder(edges))
