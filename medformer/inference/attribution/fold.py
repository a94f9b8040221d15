"""The attributions of one fold's test subjects, reduced to what a group of subjects is explained by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.errors import DataError
from medformer.inference.attribution.integrated_gradients import Vectors, integrated_gradients


@dataclass(frozen=True)
class FoldAttribution:
    """What the edges add to the log odds of subjects that did not train the network; every vector float32 (d,).

    Attributes:
        fold: Its index.
        strength: Mean magnitude over the subjects.
        positive: Mean over the subjects of class 1; NaN without one.
        negative: Mean over the subjects of class 0; NaN without one.
        slope: Mean gradient; above 0 where a stronger connection raises the log odds.
        positives: Number of subjects of class 1.
        negatives: Number of subjects of class 0.
        gap: What the sums miss of the explained difference, as a share of it.
    """

    fold: int
    strength: Vectors
    positive: Vectors
    negative: Vectors
    slope: Vectors
    positives: int
    negatives: int
    gap: float

    @property
    def subjects(self) -> int:
        """How many were explained."""
        return self.positives + self.negatives

    @property
    def contribution(self) -> Vectors:
        """What each edge adds to the difference of the mean log odds of the two classes, which they add up to.

        Above 0 where the edge tells the classes apart rightly; NaN where a class is missing.
        """
        return {atlas: self.positive[atlas] - self.negative[atlas] for atlas in self.strength}


def explain_fold(
    models: Sequence[nn.Module],
    edges: Vectors,
    labels: NDArray[np.int64],
    *,
    reference: Vectors,
    fold: int,
    steps: int = 32,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> FoldAttribution:
    """Explain a fold's test subjects by its networks, whose attributions are averaged.

    Args:
        models: The fold's networks, one per member.
        edges: Its test subjects, by atlas (n, d), as the networks are given them.
        labels: 1 or 0, (n,).
        reference: The mean of its training subjects, by atlas (d,).
        fold: Its index.
        steps: Points of the integral.
        batch_size: Subjects per pass.
        device: Where the networks are.

    Raises:
        DataError: No network, or subjects and reference that do not fit.
    """
    if not models:
        raise DataError(f"Fold {fold} has no network to explain; expected at least one. Finish the run with --resume.")
    found = [
        integrated_gradients(model, edges, reference=reference, steps=steps, batch_size=batch_size, device=device)
        for model in models
    ]
    values = {atlas: _mean([member.values[atlas] for member in found]) for atlas in edges}
    return FoldAttribution(
        fold=fold,
        strength={atlas: np.abs(block).mean(axis=0) for atlas, block in values.items()},
        positive={atlas: _mean_of(block, labels == 1) for atlas, block in values.items()},
        negative={atlas: _mean_of(block, labels == 0) for atlas, block in values.items()},
        slope={atlas: _mean([member.slopes[atlas].mean(axis=0) for member in found]) for atlas in edges},
        positives=int(np.count_nonzero(labels == 1)),
        negatives=int(np.count_nonzero(labels == 0)),
        gap=max(member.gap for member in found),
    )


def _mean(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    total = blocks[0].astype(np.float64)
    for block in blocks[1:]:
        total += block
    return np.asarray(total / len(blocks), dtype=np.float32)


def _mean_of(block: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean of the chosen rows; NaN when there is none."""
    if not chosen.any():
        return np.full(block.shape[1], np.nan, np.float32)
    return np.asarray(block[chosen].mean(axis=0, dtype=np.float64), dtype=np.float32)
