"""What a training says when numbers or memory give out."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medformer.config import TrainingConfig
from medformer.errors import DivergenceError, ResourceError
from medformer.tensor_file import name_some
from medformer.training.losses.objectives import Load

_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "unable to mmap",
    "bus error",
    "killed by signal: killed",
)


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

    def advice(self, error: BaseException) -> ResourceError:
        """Return the error that says what was asked for and what to try."""
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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return ResourceError(
            f"Out of memory: batch of {batch}{seen}, network of {self.parameters:,} parameters "
            f"(weights, gradients, optimizer and average alone take {fixed:.2f} GiB). Try {', or '.join(options)}; "
            f"fewer data.workers if the machine, not the GPU, ran out. Reported: {reason}"
        )


@contextmanager
def explain_memory(config: TrainingConfig, model: nn.Module) -> Iterator[MemoryContext]:
    """Turn a lack of memory inside the block into a `ResourceError` with numbers and advice."""
    context = MemoryContext(config, sum(parameter.numel() for parameter in model.parameters()))
    try:
        yield context
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_memory(error):
            raise
        raise context.advice(error) from error


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return any(words in str(error).lower() for words in _MEMORY_WORDS)
