"""A running average of the weights: what is validated, saved and used afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's parameters and floating-point buffers.

    At update t = 1, 2, ... `average = d * average + (1 - d) * weights` with `d = min(decay, (1 + t) / (10 + t))`: the
    early, bad weights are forgotten soon, and short runs are averaged over a share of their length. Running statistics
    of batch normalization are averaged as well, so that they belong to the averaged weights; integers are copied.

    A decay of 0 makes the average equal to the latest weights, and then it takes no memory and no time of its own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy the model's present weights.

        Args:
            model: Its tensors are referred to, not copied, so it may be trained but not replaced.
            decay: In [0, 1].
        """
        self.decay = decay
        self._live = live_tensors(model)
        self._average = {name: tensor.clone() for name, tensor in self._live.items()} if decay else {}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take the model's present weights in; `updates` counts from 1."""
        if not self._average:
            return
        weight = 1.0 - min(self.decay, (1.0 + updates) / (10.0 + updates))
        averaged, latest = [], []
        for name, tensor in self._live.items():
            if tensor.is_floating_point():
                averaged.append(self._average[name])
                latest.append(tensor.detach())
            else:
                self._average[name].copy_(tensor)
        torch._foreach_lerp_(averaged, latest, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the average inside the block; its own weights come back whatever happens there.

        Storage is exchanged, nothing is copied: the block must not train the model.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Return the averaged tensors by name; none where they are the model's own."""
        return dict(self._average)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from saved tensors; names and shapes must be those of `state`."""
        for name, tensor in self._average.items():
            tensor.copy_(tensors[name])

    def _swap(self) -> None:
        for name in self._average:
            tensor = self._live[name]
            tensor.data, self._average[name] = self._average[name], tensor.data


def live_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and saved buffers that a model computes with, by name; shared ones once."""
    kept = model.state_dict(keep_vars=True)
    unique: dict[int, str] = {}
    for name, tensor in kept.items():
        unique.setdefault(id(tensor), name)
    return {name: kept[name] for name in unique.values()}
