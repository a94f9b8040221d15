"""Masked pretraining on volumes: hide whole blocks of a patch and reward the network for reconstructing them.

    MaskedVolumes(block, ratio)

is an objective (see `objectives`) for networks that map (B, C, *S) to (B, C, *S).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medformer.errors import ConfigError
from medformer.training.loader import Batch
from medformer.training.losses.objectives import Load, Moment, Network, volume_load
from medformer.training.masking import masked_error


class MaskedVolumes:
    """Mean squared error on what was hidden; what was not hidden does not count.

    A patch is cut into blocks from its first voxel on (those at the far ends may be cut off), and of each patch
    `round(ratio * blocks)` of them, at least one and never all, are replaced by 0 in every channel: close to the mean
    of normalized volumes. Blocks rather than voxels, because a hidden voxel can be guessed from its neighbors (He et
    al., Masked autoencoders, CVPR 2022). Masks are drawn anew for every patch and step.

    Args:
        block: Side of a block, voxels.
        ratio: Share that is hidden, in (0, 1).
    """

    def __init__(self, block: int, ratio: float) -> None:
        if block < 1:
            raise ValueError(f"the side of a masked block must be at least 1, got {block}")
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"the masked share must be in (0, 1), got {ratio}")
        self.block = block
        self.ratio = ratio

    def masks(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw what to hide: boolean (B, 1, *S).

        Args:
            images: (B, C, *S).
            generator: Draws; torch's own without one.

        Raises:
            ConfigError: One block is the whole patch, and nothing would be left to see.
        """
        size = images.shape[2:]
        grid = [-(-length // self.block) for length in size]
        count = torch.Size(grid).numel()
        if count < 2:
            raise ConfigError(
                f"Masked pretraining got blocks of {self.block} voxels for patches of {' x '.join(map(str, size))}; "
                f"expected smaller blocks than patches. Set pretraining.block={max(1, max(size) // 4)}."
            )
        device = images.device if generator is None else generator.device
        hidden = min(count - 1, max(1, round(self.ratio * count)))
        order = torch.rand(len(images), count, device=device, generator=generator).argsort(1)
        gone = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :hidden], True)
        mask = gone.reshape(len(images), 1, *grid)
        for axis, length in enumerate(size, start=2):
            mask = mask.repeat_interleave(self.block, axis).narrow(axis, 0, length)
        return mask.to(images.device)

    def hide(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return what the network is given: 0 where a mask is set."""
        return images.masked_fill(masks, 0.0)

    def tensors(self, batch: Batch) -> dict[str, Any]:
        return {"image": batch["image"]}

    def load(self, batch: Mapping[str, Any], moment: Moment) -> Load:
        return volume_load(batch["image"])

    def __call__(self, network: Network, batch: Mapping[str, Any], moment: Moment) -> Tensor:
        images: Tensor = batch["image"]
        masks = self.masks(images)
        return masked_error(network(self.hide(images, masks)), images, masks.expand_as(images))

    def identity(self) -> dict[str, Any]:
        return {"loss": "masked_mse", "mask": "blocks", "block": self.block, "ratio": self.ratio}
