"""The loss and gradient norm of each step: when they are read from the device, and which of them end a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medformer.data.network_inputs import nonfinite_cases
from medformer.errors import DivergenceError
from medformer.tensor_file import name_some
from medformer.training.job import Job
from medformer.training.loader import Batch

MOST = 16
"""Steps between two readings at most."""

SECONDS = 0.5
"""About as long is waited between two readings."""

MAX_SKIPPED = 50
"""Float16 steps in a row that may be left out while the loss scale adapts; each halves it, 50 make it vanish."""


@dataclass(frozen=True)
class Step:
    """A step that was taken.

    Attributes:
        number: Of its epoch, counted from 1.
        rate: Its learning rate.
        batch: As it was loaded.
    """

    number: int
    rate: float
    batch: Batch


class Reading(NamedTuple):
    """What is read of a step.

    Attributes:
        step: Which.
        loss: Its loss.
        norm: The norm of its gradient before clipping.
    """

    step: Step
    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether its gradient may be used."""
        return math.isfinite(self.norm)


class Readings:
    """The numbers of steps that were taken, on the device until they are read.

    To read a number is to wait until the device has computed it, and then the device waits for work. So the numbers of
    several steps are read together, about every `SECONDS`, unless each is wanted at once.

    Args:
        at_once: Read after each step: on a CPU, where nothing is gained by waiting, and for float16, where the host
            must know whether a step was left out.
        scaled: The loss is scaled (float16): then an infinite gradient now and then is part of the method.
        total: Adds up a tensor over all processes and divides it by their number.

    Attributes:
        at_once: As given.
        seconds: That the steps of the last readings took each; 0 before.
    """

    def __init__(self, *, at_once: bool, scaled: bool = False, total: Callable[[Tensor], Tensor] | None = None) -> None:
        self.at_once = at_once
        self._scaled = scaled
        self._total = total
        self._unread: list[tuple[Step, Tensor]] = []
        self._every = 1
        self._count = 0
        self._skipped = 0

    def __bool__(self) -> bool:
        """Whether the numbers of some steps were not read."""
        return bool(self._unread)

    @property
    def due(self) -> bool:
        """Whether it is time to read; the same in all processes."""
        return len(self._unread) >= self._every

    def add(self, step: Step, loss: Tensor, norm: Tensor) -> None:
        """Take in two numbers of a step, which may not have been computed yet."""
        self._unread.append((step, torch.stack((loss.detach(), norm.detach().to(loss.dtype)))))

    def read(self) -> Iterator[Reading]:
        """Wait for the device, and give the numbers of the steps since the last reading, in order.

        The caller stops at one that `ends`; it must not save anything of these or later steps then.
        """
        steps, rows = [step for step, _ in self._unread], [row for _, row in self._unread]
        self._unread, self._count = [], len(steps)
        if not rows:
            return
        table = torch.stack(rows)
        if self._total is not None:
            table = self._total(table)
        for step, (loss, norm) in zip(steps, table.tolist(), strict=True):
            yield Reading(step, loss, norm)

    def ends(self, reading: Reading) -> bool:
        """Whether a step ends the training, because its loss, or a gradient that should not, is not a finite number."""
        self._skipped = 0 if reading.finite else self._skipped + 1
        allowed = reading.finite or self._scaled
        return not math.isfinite(reading.loss) or not allowed or self._skipped > MAX_SKIPPED

    def paced(self, seconds: float) -> float:
        """Say how long the steps of the last reading took together, the same in all processes; returns it of one."""
        each = seconds / max(1, self._count)
        if not self.at_once:
            self._every = max(1, min(MOST, int(SECONDS / max(each, 1e-6))))
        return each


def divergence(
    reading: Reading, job: Job, *, epoch: int, steps: int, best_epoch: int, processes: int = 1
) -> DivergenceError:
    """Return the error that a loss or gradient is not a finite number: where, in which cases, and what to do.

    Args:
        reading: Of the step.
        job: The training.
        epoch: Counted from 1.
        steps: Of an epoch.
        best_epoch: Whose weights are on disk; 0 for none.
        processes: That train together; each must ask for this.
    """
    step = reading.step
    ids = list(step.batch["id"])
    bad = nonfinite_cases(ids, job.objective.tensors(step.batch))
    if processes > 1:
        gathered: list[Any] = [None] * processes
        torch.distributed.all_gather_object(gathered, (ids, bad))
        ids = [case for part, _ in gathered for case in part]
        bad = [case for _, part in gathered for case in part]
    kept = f"The weights on disk are those of epoch {best_epoch}." if best_epoch else "No weights were saved yet."
    config = job.config
    if bad:
        advice = f"The input itself is not finite in {name_some(bad)}: repair or leave out these cases."
    else:
        clip = "" if config.clip else ", training.clip=1.0"
        precision = "" if config.precision == "32-true" else ", training.precision=32-true"
        advice = (
            f"The inputs are finite. Look at these cases, or start again with training.lr={config.lr / 10:g} "
            f"(now {config.lr:g}){clip}{precision}."
        )
    return DivergenceError(
        f"Training diverged in epoch {epoch}, step {step.number} of {steps}: loss {reading.loss:g}, gradient norm "
        f"{reading.norm:g}, expected finite numbers. Cases of the batch: {', '.join(ids)}. {advice} {kept}"
    )
