"""Which connections a network's score comes from: integrated gradients (Sundararajan, Taly and Yan 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.data.network_inputs import with_float64
from medformer.errors import DataError
from medformer.inference.forward_passes import evaluating

Vectors = Mapping[str, NDArray[np.float32]]
"""By atlas: the edges of subjects (n, d), or of one subject (d,)."""

TOLERANCE = 0.05
"""Share of the explained difference that attributions may miss before they count as incomplete: more steps help."""


@dataclass(frozen=True)
class Attributions:
    """What each edge adds to a subject's log odds, against a reference subject.

    Attributes:
        values: By atlas, float32 (n, d). A subject's values over all atlases add up to `output - reference_output`.
        slopes: By atlas, float32 (n, d): the mean gradient on the way from the reference to the subject. Above 0 where
            a stronger connection raises the log odds.
        output: Log odds of class 1, float64 (n,).
        reference_output: The same of the reference, float64 (n,); one number, unless subjects of a batch interact.
    """

    values: Vectors
    slopes: Vectors
    output: NDArray[np.float64]
    reference_output: NDArray[np.float64]

    @property
    def gap(self) -> float:
        """Mean of what the sums miss, as a share of the mean difference that they explain (the completeness axiom)."""
        explained = self.output - self.reference_output
        total = sum((values.sum(axis=1, dtype=np.float64) for values in self.values.values()), np.zeros(len(explained)))
        missed = float(np.abs(total - explained).mean())
        return missed / max(float(np.abs(explained).mean()), float(np.finfo(np.float32).tiny))


def integrated_gradients(
    model: nn.Module,
    edges: Vectors,
    *,
    reference: Vectors,
    steps: int = 32,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Attributions:
    """Attribute a classifier's log odds of class 1 to its inputs along the straight line from a reference.

    The integral over the line is a Gauss-Legendre sum. All subjects of a batch are at the same point of their lines, so
    that a network in which subjects interact is explained as it computes. Dropout is off.

    Args:
        model: Called with edges by atlas (B, d); returns logits (B, 2).
        edges: The subjects, by atlas (n, d), as they enter the network.
        reference: By atlas (d,), usually the mean of the training subjects: what "nothing special" looks like.
        steps: Points of the integral.
        batch_size: Subjects per pass.
        device: Where the model is.

    Raises:
        DataError: Atlases or sizes of the reference do not fit, there is no subject, or something is not finite.
    """
    subjects = _check(edges, reference)
    values = {atlas: np.empty(block.shape, np.float32) for atlas, block in edges.items()}
    slopes = {atlas: np.empty(block.shape, np.float32) for atlas, block in edges.items()}
    output, origin = np.empty(subjects), np.empty(subjects)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    line = [(float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]
    with _frozen(model):
        for first in range(0, subjects, batch_size):
            part = slice(first, min(first + batch_size, subjects))
            end = {atlas: _tensor(block[part], device) for atlas, block in edges.items()}
            start = {atlas: _tensor(reference[atlas], device).expand_as(block) for atlas, block in end.items()}
            with torch.no_grad():
                output[part] = _log_odds(model, end).cpu().numpy()
                origin[part] = _log_odds(model, start).cpu().numpy()
            for atlas, slope in _mean_gradient(model, start, end, line).items():
                slopes[atlas][part] = slope.cpu().numpy()
                values[atlas][part] = (slope * (end[atlas] - start[atlas])).cpu().numpy()
    if not (np.isfinite(output - origin).all() and all(np.isfinite(block).all() for block in values.values())):
        raise DataError(
            f"The attributions of {subjects} subject(s) are not finite. The network or its inputs hold NaN or infinite "
            "values; check the cohort, or train again with a lower learning rate."
        )
    return Attributions(values, slopes, output, origin)


def _mean_gradient(
    model: nn.Module, start: Mapping[str, Tensor], end: Mapping[str, Tensor], line: list[tuple[float, float]]
) -> dict[str, Tensor]:
    """The gradient of each subject's log odds, averaged over its line; by atlas (B, d), float32."""
    total = {atlas: torch.zeros_like(with_float64(block), dtype=torch.float64) for atlas, block in end.items()}
    for at, weight in line:
        point = {atlas: torch.lerp(start[atlas], block, at).detach().requires_grad_() for atlas, block in end.items()}
        gradients = torch.autograd.grad(_log_odds(model, point).sum(), list(point.values()))
        for atlas, gradient in zip(point, gradients, strict=True):
            total[atlas] += with_float64(weight * gradient)
    return {atlas: block.to(end[atlas]) for atlas, block in total.items()}


def _log_odds(model: nn.Module, edges: Mapping[str, Tensor]) -> Tensor:
    """Log odds of class 1, (B,): the difference of the two logits."""
    logits = model(edges).float()
    return torch.sub(logits[:, 1], logits[:, 0])


def _check(edges: Vectors, reference: Vectors) -> int:
    """Number of subjects."""
    if set(edges) != set(reference):
        raise DataError(
            f"The subjects have the atlases {', '.join(edges) or '(none)'}, the reference has "
            f"{', '.join(reference) or '(none)'}. Expected the same: use the mean of the network's training subjects."
        )
    counts = {len(block) for block in edges.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(
            f"Got {sorted(counts)} subjects for the atlases {', '.join(edges) or '(none)'}; expected the same number, "
            "at least one, for each."
        )
    for atlas, block in edges.items():
        if reference[atlas].shape != block.shape[1:]:
            raise DataError(
                f"{atlas}: a subject has edges of shape {block.shape[1:]}, the reference has "
                f"{reference[atlas].shape}. Expected the same: use the mean of the network's training subjects."
            )
    return counts.pop()


def _tensor(block: NDArray[np.float32], device: torch.device | str) -> Tensor:
    # A copy, since a memory-mapped block is read-only.
    return torch.from_numpy(np.array(block, dtype=np.float32)).to(device)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluate with the parameters frozen: their gradients are not needed, and cost as much again as the edges'."""
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in learned:
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, needed in learned:
            parameter.requires_grad_(needed)


@dataclass(frozen=True)
class FoldAttribution:
    """What the edges add to the log odds of a fold's test subjects, by class; every vector is float32 (d,).

    Attributes:
        fold: Its index.
        strength: Mean magnitude over the subjects.
        positive: Mean over the subjects of class 1; NaN without one.
        negative: Mean over the subjects of class 0; NaN without one.
        slope: Mean gradient; above 0 where a stronger connection raises the log odds.
        positives: Number of subjects of class 1.
        negatives: Number of subjects of class 0.
        gap: Difference between the sums and what they explain, as a share of it.
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
        """Number of explained subjects."""
        return self.positives + self.negatives

    @property
    def contribution(self) -> Vectors:
        """What each edge adds to the difference of the mean log odds of the two classes, which they add up to.

        Above 0 where the edge separates the classes in the right direction; NaN where a class is missing.
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
    """Explain a fold's test subjects; the attributions of its networks are averaged.

    Args:
        models: The fold's networks, one per member.
        edges: Its test subjects, by atlas (n, d), as they enter the networks.
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
    return np.asarray(np.mean(blocks, axis=0, dtype=np.float64), dtype=np.float32)


def _mean_of(block: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean of the chosen rows; NaN when there is none."""
    if not chosen.any():
        return np.full(block.shape[1], np.nan, np.float32)
    return np.asarray(block[chosen].mean(axis=0, dtype=np.float64), dtype=np.float32)
