"""The number that stops the pretraining of a connectome network, from the inner validation part.

ReconstructionLoss(objective, edges, batch_size=128, seed)   masked error, measure "loss"; `.against_mean(...)`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.inference.network_inputs import Edges, batches


class Hiding(Protocol):
    """What decides which connections are hidden (see `medformer.training.masking.MaskedReconstruction`)."""

    def masks(self, edges: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw boolean masks of the connections' shapes; what they mark is replaced by 0."""


class ReconstructionLoss:
    """Mean squared error on hidden connections, summed over the atlases; the same ones are hidden every time.

    Noise is for training: here the network sees what is not hidden as it is.

    Args:
        objective: Decides what is hidden.
        edges: Connections of the inner validation part by atlas.
        batch_size: Subjects per pass.
        seed: Decides what is hidden.
    """

    measure = "loss"

    def __init__(self, objective: Hiding, edges: Edges, batch_size: int = 128, *, seed: int = 0) -> None:
        self.objective = objective
        self.edges = dict(edges)
        self.batch_size = batch_size
        self.seed = seed

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the error of a model in evaluation mode."""
        squares, counts = self._errors(model, {})
        return sum(squares[atlas]["found"] / max(1, counts[atlas]) for atlas in counts)

    @torch.no_grad()
    def against_mean(self, model: nn.Module, train: Edges) -> dict[str, Any]:
        """Compare with the guess that every connection is the mean of the training subjects.

        Args:
            model: In evaluation mode.
            train: Connections of the training part by atlas, which the mean is taken of.

        Returns:
            `masked_mse` and `mean_edge_mse` over all hidden connections and, under `atlases`, over those of each
            atlas; `subjects` and `hidden`, how many there were.
        """
        means = {atlas: np.asarray(np.mean(block, 0, np.float64), np.float32) for atlas, block in train.items()}
        squares, counts = self._errors(model, means)

        def row(atlases: list[str]) -> dict[str, Any]:
            hidden = sum(counts[atlas] for atlas in atlases)
            found, mean = (sum(squares[atlas][key] for atlas in atlases) / max(1, hidden) for key in ("found", "mean"))
            return {"masked_mse": found, "mean_edge_mse": mean, "hidden": hidden}

        subjects = len(next(iter(self.edges.values())))
        return {**row(list(counts)), "subjects": subjects, "atlases": {atlas: row([atlas]) for atlas in counts}}

    def _errors(
        self, model: nn.Module, means: Mapping[str, NDArray[np.float32]]
    ) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
        """Return by atlas the sums of squared errors (`found`, and `mean` if means are given) and the hidden number."""
        squares = {atlas: {"found": 0.0, "mean": 0.0} for atlas in self.edges}
        counts = dict.fromkeys(self.edges, 0)
        generator = torch.Generator().manual_seed(self.seed)
        for part in batches(self.edges, model, self.batch_size):
            masks = self.objective.masks(part, generator)
            found = model({atlas: block.masked_fill(masks[atlas], 0.0) for atlas, block in part.items()})
            for atlas, mask in masks.items():
                truth = part[atlas]
                squares[atlas]["found"] += _sum_of_squares(found[atlas].float(), truth, mask)
                if means:
                    guess = torch.from_numpy(means[atlas]).to(truth)
                    squares[atlas]["mean"] += _sum_of_squares(guess, truth, mask)
                counts[atlas] += int(mask.sum())
        return squares, counts


def _sum_of_squares(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    return float(((found - truth).square() * mask).sum(dtype=torch.float64))
