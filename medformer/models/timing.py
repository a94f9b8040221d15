"""How long a network takes on a machine, measured on inputs without meaning, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medformer.config.shared import Precision
from medformer.models.backbone.mixers import MIXERS, make_mixer
from medformer.models.memory import stand_in_loss
from medformer.models.precision import autocast

SAMPLE = 48**3
"""Voxels or pixels that are enough to time: larger inputs take proportionally longer, in smaller ones overheads
dominate."""

MIXER_CHANNELS, MIXER_SIDES = 64, (14, 28, 56)
"""What a mixer is measured with: its channels, and sides of square maps."""

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
        step = _seconds(lambda: _step(model, held, low))
        if step < _ENOUGH:
            # The first step also pays for what later ones find ready.
            step = _seconds(lambda: _step(model, held, low))
        model.eval()
        with torch.no_grad(), low:
            forward = _seconds(lambda: stand_in_loss(model(held)).item())
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


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_mixer(name: str) -> dict[str, Any]:
    """Count the parameters of a token mixer in each number of dimensions, and time it on this machine's CPU.

    Returns:
        The numbers of parameters, and the milliseconds of a forward pass of one map of each size: square maps, or as
        many positions in a row for a mixer of sequences.
    """
    known = [dims for dims in (1, 2, 3) if f"{dims}-D" not in MIXERS[name].cannot]
    shown = 2 if 2 in known else known[0]
    counts = {}
    for dims in known:
        with torch.device("meta"):
            mixer = make_mixer(name, MIXER_CHANNELS, spatial_dims=dims, stage=1)
        counts[f"{dims}-D"] = sum(parameter.numel() for parameter in mixer.parameters())
    mixer = make_mixer(name, MIXER_CHANNELS, spatial_dims=shown, stage=1).eval()
    milliseconds = {}
    for side in MIXER_SIDES:
        size = (side, side) if shown == 2 else (side * side,)
        x = torch.zeros(1, MIXER_CHANNELS, *size)
        with torch.no_grad():
            mixer(x)
            took = []
            for _ in range(3):
                began = time.perf_counter()
                mixer(x)
                took.append(time.perf_counter() - began)
        milliseconds[" x ".join(map(str, size))] = round(1000 * min(took), 2)
    channels = f"{MIXER_CHANNELS} channels"
    return {f"parameters at {channels}": counts, f"milliseconds at {channels}": milliseconds}
