"""The number that chooses weights and stops training: mean Dice on the inner validation part."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader

from medformer.data.frames.dataset import SegmentationDataset


class ValidationDice:
    """Mean Dice at 0.5 over cases, at the network's size; two empty masks count 1.

    Cheap enough for every epoch. Reported numbers are computed elsewhere, at the original size of the images.

    Args:
        data: Cases of the inner validation part, without augmentation.
        batch_size: Cases per pass.
    """

    measure = "dice"

    def __init__(self, data: SegmentationDataset, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size

    def __call__(self, model: nn.Module) -> float:
        """Return the mean Dice of a model in evaluation mode."""
        device = next(model.parameters()).device
        scores = []
        for batch in DataLoader(self.data, batch_size=self.batch_size):
            predicted = model(batch["image"].to(device)).flatten(1) >= 0
            truth = batch["mask"].to(device).flatten(1) >= 0.5
            both = (predicted & truth).sum(1)
            total = predicted.sum(1) + truth.sum(1)
            scores.append(torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0))
        return float(torch.cat(scores).mean())
