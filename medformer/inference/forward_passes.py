"""What every forward pass of a trained network needs: evaluation mode, a device, the views of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor, nn

from medformer.config.shared import Precision
from medformer.errors import DataError
from medformer.models.precision import autocast


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes; the CPU for one without parameters."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


@contextmanager
def evaluating(*models: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Put models in evaluation mode, and each of their modules back as it was; a device is where they go and stay."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
        model.to(device)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def mean_probability(
    models: Sequence[nn.Module],
    batch: Tensor,
    activation: Callable[[Tensor], Tensor],
    *,
    classes: int,
    flips: Sequence[int],
    precision: Precision,
) -> Tensor:
    """Average the probabilities of networks over the views of a batch: as it is, and under every combination of flips.

    The views form a group, so the averaged prediction of a flipped input is the flipped prediction.

    Args:
        models: Networks that map (B, C, *S) to logits (B, classes, *S).
        batch: (B, C, *S).
        activation: From logits to probabilities.
        classes: Maps that a network gives.
        flips: Axes to flip along; empty for a single view.
        precision: Autocast type of the passes.

    Returns:
        float32 (B, classes, *S).

    Raises:
        DataError: A network's output has another shape.
    """
    views = [axes for count in range(len(flips) + 1) for axes in combinations(flips, count)]
    expected = (len(batch), classes, *batch.shape[2:])
    total = torch.zeros(expected, device=batch.device)
    for model in models:
        for axes in views:
            with autocast(batch.device, precision):
                logits = model(batch.flip(axes) if axes else batch)
            if tuple(logits.shape) != expected:
                raise DataError(
                    f"{type(model).__name__} returned {tuple(logits.shape)}, expected {expected}: these weights do not "
                    "belong to this config or plan. Use the files that training wrote beside them."
                )
            probabilities = activation(logits.float())
            total += probabilities.flip(axes) if axes else probabilities
    return total / (len(models) * len(views))
