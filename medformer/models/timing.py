"""How long a network takes on a machine, measured on inputs without meaning, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medformer.config.shared import Precision
from medformer.models.memory import stand_in_loss
from medformer.models.precision import autocast

SAMPLE = 48**3
"""Voxels or pixels that are enough to time: larger inputs take proportionally longer, in smaller ones overheads
dominate."""

_ENOUGH = 2.0
"""Seconds after which a first step is not repeated."""


class Timing(NamedTuple):
    """Seconds that a network takes.

    Attributes:
        step: Forward and backward pass of a batch.
        case: Forward pass of one case or patch, without gradients.
    """

    step: float
    case: float


def time_images(
    model: nn.Module,
    size: Sequence[int],
    batch_size: int,
    *,
    in_channels: int,
    device: str = "cpu",
    precision: Precision = "32-true",
) -> Timing:
    """Time a network on images or volumes.

    What is timed holds at most about `SAMPLE` voxels, in fewer images of a batch (two at least), and of volumes in
    ones whose longest axes are halved; the result is scaled. Loading and augmentation are not in it.

    Args:
        model: Network `(B, in_channels, *size) -> logits`; moved to the device.
        size: Pixels or voxels per axis.
        batch_size: Of a step.
        in_channels: Of the input.
        device: Where it is trained.
        precision: In which it is trained.
    """
    shape, count = [int(n) for n in size], batch_size
    fewest = 2 if len(shape) < 3 else 1
    while count > fewest and count * prod(shape) > SAMPLE:
        count = max(fewest, -(-count // 2))
    while len(shape) == 3 and prod(shape) > SAMPLE:
        longest = shape.index(max(shape))
        shape[longest] = -(-shape[longest] // 2)
    inputs = torch.zeros(count, in_channels, *shape)
    found = time_network(model, inputs, count, device=device, precision=precision)
    scale = prod(int(n) for n in size) / prod(shape)
    return Timing(found.step * scale * batch_size / count, found.case * scale)


def time_network(
    model: nn.Module, inputs: Any, count: int, *, device: str = "cpu", precision: Precision = "32-true"
) -> Timing:
    """Time a step and a forward pass; weights and the random stream stay as they are, statistics of norms do not.

    Args:
        model: Network; moved to the device.
        inputs: What it takes: a tensor, or tensors by name.
        count: Cases in it.
        device: Where it is trained.
        precision: In which it is trained.
    """
    mode = model.training
    model.to(device).train()
    held = {name: value.to(device) for name, value in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)
    low = autocast(torch.device(device), precision)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        step = seconds(lambda: _step(model, held, low))
        if step < _ENOUGH:
            # The first step also pays for what later ones find ready.
            step = seconds(lambda: _step(model, held, low))
        model.eval()
        with torch.no_grad(), low:
            forward = seconds(lambda: stand_in_loss(model(held)).item())
    model.train(mode)
    return Timing(step, forward / count)


def _step(model: nn.Module, inputs: Tensor | dict[str, Tensor], low: torch.autocast) -> None:
    with low:
        loss = stand_in_loss(model(inputs))
    if loss.requires_grad:
        loss.backward()
    # Reading a number waits for a GPU to finish.
    loss.item()
    model.zero_grad(set_to_none=True)


def seconds(work: Any) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
