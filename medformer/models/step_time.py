"""How long a training step takes on this machine: measured on a small input, scaled to the real one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from medformer.models.memory import stand_in_loss

SAMPLE = 48**3
"""Voxels that are enough to time: larger inputs take proportionally longer, and in smaller ones overheads dominate."""


def seconds_per_step(
    model: nn.Module, patch: Sequence[int], batch_size: int, *, in_channels: int, device: str = "cpu"
) -> float:
    """Expected seconds of a forward and a backward pass; weights are left as they are, statistics of norms are not.

    A step runs twice on a patch whose longest axes are halved until it holds at most about `SAMPLE` voxels, and the
    second is scaled by the voxels of the whole batch. Loading and augmentation are not in it.

    Args:
        model: Network; moved to the device.
        patch: Voxels per axis.
        batch_size: Patches per step.
        in_channels: Of the input.
        device: Where it is trained.
    """
    size, count = [int(n) for n in patch], batch_size
    while count > 1 and count * prod(size) > SAMPLE:
        count = -(-count // 2)
    while prod(size) > SAMPLE:
        longest = size.index(max(size))
        size[longest] = -(-size[longest] // 2)
    mode = model.training
    model.to(device).train()
    elapsed = 0.0
    with torch.random.fork_rng(devices=[]):
        image = torch.zeros(count, in_channels, *size, device=device)
        for _ in range(2):
            start = time.perf_counter()
            loss = stand_in_loss(model(image))
            loss.backward()
            # Reading a number waits for a GPU to finish.
            loss.item()
            elapsed = time.perf_counter() - start
            model.zero_grad(set_to_none=True)
    model.train(mode)
    return elapsed * batch_size * prod(int(n) for n in patch) / (count * prod(size))
