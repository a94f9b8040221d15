"""What a training says when numbers or memory give out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medformer.config import TrainingConfig
from medformer.errors import DivergenceError
from medformer.tensor_file import name_some
from medformer.training.losses.objectives import Load


def divergence(
    *,
    epoch: int,
    step: int,
    steps: int,
    loss: float,
    norm: float,
    ids: Sequence[str],
    bad_ids: Sequence[str],
    config: TrainingConfig,
    best_epoch: int,
) -> DivergenceError:
    """Return the error for a loss or gradient that is not a finite number.

    Args:
        epoch: Counted from 1.
        step: Counted from 1.
        steps: Steps per epoch.
        loss: Loss of the batch.
        norm: Its gradient norm.
        ids: Cases of the batch.
        bad_ids: Those among them whose data already hold NaN or infinity.
        config: For the advice.
        best_epoch: Epoch of the weights on disk, 0 when there are none.
    """
    kept = f"The weights on disk are those of epoch {best_epoch}." if best_epoch else "No weights were saved yet."
    if bad_ids:
        advice = f"The input itself is not finite in {name_some(bad_ids)}: repair or leave out these cases."
    else:
        clip = "" if config.clip else ", training.clip=1.0"
        precision = "" if config.precision == "32-true" else ", training.precision=32-true"
        advice = (
            f"The inputs are finite. Look at these cases, or start again with training.lr={config.lr / 10:g} "
            f"(now {config.lr:g}){clip}{precision}."
        )
    return DivergenceError(
        f"Training diverged in epoch {epoch}, step {step} of {steps}: loss {loss:g}, gradient norm {norm:g}, expected "
        f"finite numbers. Cases of the batch: {', '.join(ids)}. {advice} {kept}"
    )


def nonfinite_cases(ids: Sequence[str], tensors: Mapping[str, Any]) -> list[str]:
    """Return the ids of the cases whose data hold NaN or infinity.

    Args:
        ids: Of the cases, in the order of the first axis of every tensor.
        tensors: As an objective takes them from a batch.
    """
    fine = [True] * len(ids)
    for tensor in _each(tensors):
        finite = torch.isfinite(tensor).reshape(len(ids), -1).all(1).tolist()
        fine = [before and now for before, now in zip(fine, finite, strict=True)]
    return [case for case, good in zip(ids, fine, strict=True) if not good]


def _each(tensors: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in tensors.values():
        if isinstance(value, Mapping):
            yield from _each(value)
        else:
            yield value


@dataclass
class MemoryContext:
    """The numbers behind a lack of memory; the loop keeps `load` up to date.

    Attributes:
        config: Batch size and precision.
        parameters: Of the network.
        load: The last batch; None before the first.
    """

    config: TrainingConfig
    parameters: int
    load: Load | None = None

    def advice(self) -> str:
        """Say what was asked for and what to try."""
        load = self.load or Load(self.config.batch_size)
        batch, seen = load.cases, f", {load.seen}" if load.seen else ""
        # Weights, gradients, two moments and the average, in float32.
        fixed = 5 * 4 * self.parameters / 2**30
        options = []
        if batch > 1:
            options.append(f"{load.batch_setting}={max(1, batch // 2)}")
        if self.config.precision == "32-true":
            options.append("training.precision=bf16-mixed")
        options += load.smaller or ("a smaller model",)
        return (
            f"Out of memory: batch of {batch}{seen}, network of {self.parameters:,} parameters "
            f"(weights, gradients, optimizer and average alone take {fixed:.2f} GiB). Try {', or '.join(options)}; "
            "fewer data.workers if the machine, not the GPU, ran out."
        )
