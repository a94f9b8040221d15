"""Masked pretraining: a classifier's own encoder with a head that reconstructs what was hidden from it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medformer.models.connectome.classifier import ConnectomeClassifier


class MaskedAutoencoder(nn.Module):
    """Maps masked connections to reconstructed ones, `{atlas: (B, connections)}` both.

    The encoder is the classifier's, not a copy: after training this network the classifier is pretrained. The head
    that classifies is no part of it, so that an optimizer does not touch it.
    """

    def __init__(self, model: ConnectomeClassifier) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.decoder = model.decoder()

    def forward(self, edges: Mapping[str, Tensor]) -> dict[str, Tensor]:
        reconstruction: dict[str, Tensor] = self.decoder(self.encoder(edges))
        return reconstruction
