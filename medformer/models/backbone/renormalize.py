"""Showing pretrained weights the images that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medformer.config.shared import IMAGE_MEAN, IMAGE_STD


class Renormalize(nn.Module):
    """`(B, 3, H, W)` as every network of ours is given it, into what its weights were trained with.

    All networks are given red, green and blue in [0, 1], less `IMAGE_MEAN`, divided by `IMAGE_STD`. What other weights
    expect instead is kept with them, as buffers of the network: whatever applies the network later, a fold, an export
    or a bundle, shows it the same, also where the pretrained file is gone. It changes nothing until it `follow`s
    weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("shift", torch.zeros(3))

    def follow(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Give what weights expect that were trained on `(pixels - mean) / std`, pixels in [0, 1]."""
        ours, theirs = (torch.tensor(pair, dtype=torch.float64) for pair in ((IMAGE_MEAN, IMAGE_STD), (mean, std)))
        self.scale.copy_(ours[1] / theirs[1])
        self.shift.copy_((ours[0] - theirs[0]) / theirs[1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])
