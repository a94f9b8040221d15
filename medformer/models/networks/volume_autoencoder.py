"""Masked pretraining: a volume network's own encoder with a light decoder that reconstructs what was hidden."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.errors import ConfigError
from medformer.models.backbone.layers import Pointwise
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.variants import Classifier
from medformer.models.networks.meta_unet import MetaUNet
from medformer.models.networks.padded import crop_to, pad_to_multiple

WIDTH = 32


class MaskedVolumeAutoencoder(nn.Module):
    """Maps masked volumes to reconstructed ones, `(B, C, *S)` both, any size.

    The encoder is the network's, not a copy: after training this the network's encoder is pretrained. Maps are
    narrowed, raised and added up coarse to fine; each position of the finest map then predicts the voxels under it.

    Raises:
        ConfigError: The network has no shared backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, (MetaUNet, Classifier)):
            raise ConfigError(
                f"Masked pretraining trains the shared backbone, and {type(model).__name__} has none. Use "
                "model.name=meta_unet, or pretraining.enabled=false."
            )
        self.backbone: MetaFormer = model.backbone
        self.block = self.backbone.strides[0]
        self.narrow = nn.ModuleList(Pointwise(channels, WIDTH) for channels in self.backbone.channels)
        self.voxels = Pointwise(WIDTH, self.backbone.in_channels * prod(self.block))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.backbone.strides[-1])
        features = self.backbone(x)
        joined = self.narrow[-1](features[-1])
        for narrow, feature in zip(reversed(self.narrow[:-1]), reversed(features[:-1]), strict=True):
            joined = F.interpolate(joined, size=feature.shape[2:]) + narrow(feature)
        return crop_to(spread(self.voxels(torch.relu(joined)), self.block), x.shape[2:], size)


def spread(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """Lay out each position's channels as a block of voxels, `(B, C * prod(block), *S) -> (B, C, *(S * block))`."""
    grid, dims = x.shape[2:], len(block)
    x = x.unflatten(1, (-1, *block))
    order = [
        0,
        1,
        *(axis for pair in zip(range(2 + dims, 2 + 2 * dims), range(2, 2 + dims), strict=True) for axis in pair),
    ]
    return x.permute(order).reshape(*x.shape[:2], *(n * b for n, b in zip(grid, block, strict=True)))
