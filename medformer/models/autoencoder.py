"""Masked pretraining: a network's own encoder with a light decoder that reconstructs what was hidden."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.errors import ConfigError
from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.layers import Pointwise
from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.models.networks.grid import crop_to, pad_to_multiple

WIDTH = 32


class ConnectomeAutoencoder(nn.Module):
    """Maps masked connections to reconstructed ones, `{atlas: (B, connections)}` both.

    The head that classifies is no part of it, so that an optimizer does not touch it.

    Args:
        model: Has the encoder.
        across: Whether an atlas is also reconstructed from the others of its subject.

    Attributes:
        encoder: The classifier's, not a copy.
    """

    def __init__(self, model: ConnectomeClassifier, across: bool = False) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.decoder = model.decoder(across=across)

    def forward(self, edges: Mapping[str, Tensor]) -> dict[str, Tensor]:
        reconstruction: dict[str, Tensor] = self.decoder(self.encoder(edges))
        return reconstruction


class ImageAutoencoder(nn.Module):
    """Maps masked images or volumes to reconstructed ones, `(B, C, *S)` both, any size.

    Maps are narrowed, raised and added up coarse to fine; each position of the finest map then predicts the pixels or
    voxels under it.

    Attributes:
        backbone: The network's encoder, not a copy.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.block = backbone.strides[0]
        self.narrow = nn.ModuleList(Pointwise(channels, WIDTH) for channels in backbone.channels)
        self.voxels = Pointwise(WIDTH, backbone.in_channels * prod(self.block))

    @property
    def encoder(self) -> Backbone:
        """The backbone, under the name that all autoencoders share."""
        return self.backbone

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.backbone.strides[-1])
        features = self.backbone(x)
        joined = self.narrow[-1](features[-1])
        for narrow, feature in zip(reversed(self.narrow[:-1]), reversed(features[:-1]), strict=True):
            joined = F.interpolate(joined, size=feature.shape[2:]) + narrow(feature)
        return crop_to(spread(self.voxels(torch.relu(joined)), self.block), x.shape[2:], size)


MaskedAutoencoder = ConnectomeAutoencoder | ImageAutoencoder


def masked_autoencoder(network: nn.Module, seed: int = 0, *, across: bool = False) -> MaskedAutoencoder:
    """Return an autoencoder around the encoder of a network, with a new decoder.

    Training it trains the network's own encoder, and nothing else of the network.

    Args:
        network: A connectome classifier, or a network with our backbone.
        seed: Decides the decoder's first weights.
        across: Of connectomes: whether an atlas is also reconstructed from the others.

    Raises:
        ConfigError: The network has no shared backbone, or cannot look across atlases.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(network, ConnectomeClassifier):
            return ConnectomeAutoencoder(network, across)
        backbone = getattr(network, "backbone", None)
        if isinstance(backbone, Backbone):
            return ImageAutoencoder(backbone)
    raise ConfigError(
        "Masked pretraining trains the shared backbone, and the network of this config has none. Choose a model.name "
        "that has it (meta_polyp, meta_unet), or set pretraining.enabled=false."
    )


def spread(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """Lay out each position's channels as a block of voxels, `(B, C * prod(block), *S) -> (B, C, *(S * block))`."""
    grid, dims = x.shape[2:], len(block)
    x = x.unflatten(1, (-1, *block))
    pairs = [(2 + dims + axis, 2 + axis) for axis in range(dims)]
    order = [0, 1, *(axis for pair in pairs for axis in pair)]
    return x.permute(order).reshape(*x.shape[:2], *(n * b for n, b in zip(grid, block, strict=True)))
