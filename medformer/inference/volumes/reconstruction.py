"""The number that stops masked pretraining on volumes, from the inner validation part.

VolumeReconstructionLoss(objective, images, batch_size=2, seed)   masked error, measure "loss"; `.against_mean(...)`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medformer.inference.network_inputs import Images, batches


class HidingVoxels(Protocol):
    """What decides which voxels are hidden (see `medformer.training.volume_masking.MaskedVolumes`)."""

    def masks(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a boolean mask (B, 1, *S) for images (B, C, *S)."""

    def hide(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return what the network is given."""


class VolumeReconstructionLoss:
    """Mean squared error on hidden voxels; the same ones are hidden every time.

    Args:
        objective: Decides what is hidden.
        images: Patches of the inner validation part, the same every time (`ItemImages`).
        batch_size: Patches per pass.
        seed: Decides what is hidden.
    """

    measure = "loss"

    def __init__(self, objective: HidingVoxels, images: Images, batch_size: int = 2, *, seed: int = 0) -> None:
        self.objective = objective
        self.images = images
        self.batch_size = batch_size
        self.seed = seed

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the error of a model in evaluation mode."""
        squares, hidden = 0.0, 0
        for images, masks in self._masked(model):
            found = model(self.objective.hide(images, masks)).float()
            squares += _sum_where(masks, (found - images).square())
            hidden += int(masks.expand_as(images).sum())
        return squares / max(1, hidden)

    @torch.no_grad()
    def against_mean(self, model: nn.Module) -> dict[str, Any]:
        """Compare with the guess that every hidden voxel is the mean of its patch's visible ones, by channel.

        Args:
            model: In evaluation mode.

        Returns:
            `masked_mse`, `mean_visible_mse`; `hidden`, how many values there were, and `patches`.
        """
        squares, hidden = 0.0, 0
        for images, masks in self._masked(model):
            space = list(range(2, images.ndim))
            seen = (~masks).to(images.dtype)
            mean = (images * seen).sum(space, keepdim=True) / seen.sum(space, keepdim=True)
            squares += _sum_where(masks, (mean - images).square())
            hidden += int(masks.expand_as(images).sum())
        return {
            "masked_mse": self(model),
            "mean_visible_mse": squares / max(1, hidden),
            "hidden": hidden,
            "patches": len(self.images),
        }

    def _masked(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for images in batches(self.images, model, self.batch_size):
            yield images, self.objective.masks(images, generator)


def _sum_where(masks: Tensor, values: Tensor) -> float:
    return float((values * masks).sum(dtype=torch.float64))
