"""Validation by all processes of a training, each looking at its share of the parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from medformer.models.judge import PartwiseScore
from medformer.training.processes.batch_norm import unshared
from medformer.training.signals import StopNow


def can_share(validate: Any, model: nn.Module) -> TypeGuard[PartwiseScore]:
    """Whether processes come to one score together: its parts are known, and all hold the same weights.

    Statistics of batch normalizations that see the batch of their own process alone differ from process to process.
    """
    return isinstance(validate, PartwiseScore) and not unshared(model)


def share_score(
    validate: PartwiseScore, model: nn.Module, ready: Callable[[], AbstractContextManager[Any]]
) -> float | None:
    """Return the score that one process would come to, the same in every process of the default group.

    The parts go round the processes, and their results are put in order again, so that the sum has the same digits.

    Args:
        validate: The same in every process.
        model: The same in every process.
        ready: Gives the context in which the network is judged.

    Returns:
        None if a signal stopped one of the processes (`StopNow`).
    """
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own: list[Any] | None = None
    try:
        with ready():
            own = list(validate.parts(model, range(rank, len(validate), processes)))
    except StopNow:
        own = None
    gathered: list[list[Any] | None] = [None] * processes
    torch.distributed.all_gather_object(gathered, tree_map(_on_cpu, own))
    complete = [part for part in gathered if part is not None]
    if len(complete) < processes:
        return None
    return validate.score([complete[number % processes][number // processes] for number in range(len(validate))])


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
