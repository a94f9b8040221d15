"""The numbers that choose a connectome network's weights and stop its training, from the inner validation part.

ValidationLoss(edges, labels, batch_size=128)                cross-entropy, measure "loss"
ValidationAuc(edges, labels, batch_size=128)                 area under the ROC curve, measure "auc"
ReconstructionLoss(objective, edges, batch_size=128, seed)   masked error, measure "loss"; `.against_mean(...)`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.errors import DataError

Edges = Mapping[str, NDArray[np.float32]]
"""By atlas, (n, d)."""


class Hiding(Protocol):
    """What decides which connections are hidden (see `medformer.training.masking.MaskedReconstruction`)."""

    def masks(self, edges: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw boolean masks of the connections' shapes; what they mark is replaced by 0."""


class ValidationLoss:
    """Mean cross-entropy over subjects.

    On few subjects it says more than their accuracy, which moves in steps.

    Args:
        edges: Connections of the inner validation part by atlas.
        labels: Their labels, 0 or 1, (n,).
        batch_size: Subjects per pass.
    """

    measure = "loss"

    def __init__(self, edges: Edges, labels: ArrayLike, batch_size: int = 128) -> None:
        self.edges = dict(edges)
        self.labels = np.asarray(labels, np.int64)
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the loss of a model in evaluation mode."""
        logits = torch.cat([model(part).float().cpu() for part in batches(self.edges, model, self.batch_size)])
        return self.score(logits)

    def score(self, logits: Tensor) -> float:
        """Turn the logits of all subjects, (n, 2), into the number."""
        return float(F.cross_entropy(logits, torch.from_numpy(self.labels)))


class ValidationAuc(ValidationLoss):
    """Area under the ROC curve over subjects.

    Raises:
        DataError: A class is missing.
    """

    measure = "auc"

    def __init__(self, edges: Edges, labels: ArrayLike, batch_size: int = 128) -> None:
        super().__init__(edges, labels, batch_size)
        if len(np.unique(self.labels)) < 2:
            raise DataError(
                f"The {len(self.labels)} inner validation subjects are all of one class; expected both. Hold out a "
                "larger share (crossval.validation) or stratify by label."
            )

    def score(self, logits: Tensor) -> float:
        margin = (logits[:, 1] - logits[:, 0]).double().numpy()
        # The metric refuses numbers that are not finite; the loop has a better message for them.
        return float(roc_auc_score(self.labels, margin)) if np.isfinite(margin).all() else float("nan")


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


def batches(edges: Edges, model: nn.Module, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield the connections of up to `size` subjects at a time, where the model is."""
    device = next(model.parameters()).device
    for first in range(0, len(next(iter(edges.values()))), size):
        # A copy, because memory-mapped arrays may be read-only.
        parts = {atlas: np.array(block[first : first + size], np.float32) for atlas, block in edges.items()}
        yield {atlas: torch.from_numpy(part).to(device) for atlas, part in parts.items()}


def _sum_of_squares(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    return float(((found - truth).square() * mask).sum(dtype=torch.float64))
