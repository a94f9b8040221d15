"""What a training says when numbers or memory give out."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medformer.config import TrainingConfig
from medformer.errors import DivergenceError, ResourceError
from medformer.tensor_file import name_some

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
        bad_ids: Those among them whose image or mask already holds NaN or infinity.
        config: For the advice.
        best_epoch: Epoch of the weights on disk, 0 when there are none.
    """
    kept = f"The weights on disk are those of epoch {best_epoch}." if best_epoch else "No weights were saved yet."
    if bad_ids:
        advice = f"The image or mask itself is not finite in {name_some(bad_ids)}: repair or leave out these cases."
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


def nonfinite_cases(batch: dict[str, Any]) -> list[str]:
    """Return the ids of the cases whose image or mask holds NaN or infinity."""
    ids: list[str] = list(batch["id"])
    fine = [torch.isfinite(batch[key]).flatten(1).all(1) for key in ("image", "mask")]
    return [case for case, good in zip(ids, (fine[0] & fine[1]).tolist(), strict=True) if not good]


@dataclass
class MemoryContext:
    """The numbers behind a lack of memory; the loop keeps `shape` up to date.

    Attributes:
        config: Batch size and precision.
        parameters: Of the network.
        shape: Of the last batch of images, (B, C, *S), before multi-scale resizing; empty before the first.
        scale: Multi-scale factor of that batch.
    """

    config: TrainingConfig
    parameters: int
    shape: tuple[int, ...] = ()
    scale: float = 1.0

    def advice(self, error: BaseException) -> ResourceError:
        """Return the error that says what was asked for and what to try."""
        batch = self.shape[0] if self.shape else self.config.batch_size
        size = self.shape[2:]
        scaled = f", resized by {self.scale:g} (augment.scales)" if self.scale != 1.0 else ""
        seen = f", images of {' x '.join(map(str, size))} with {self.shape[1]} channels{scaled}" if size else ""
        # Weights, gradients, two moments and the average, in float32.
        fixed = 5 * 4 * self.parameters / 2**30
        options = []
        if batch > 1:
            options.append(f"training.batch_size={max(1, batch // 2)}")
        if size:
            options.append(f"data.image_size=[{', '.join(str(max(1, int(length * 0.75))) for length in size)}]")
        if self.config.precision == "32-true":
            options.append("training.precision=bf16-mixed")
        options.append("model.checkpointing=true")
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
