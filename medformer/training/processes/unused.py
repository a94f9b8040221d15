"""Which parameters of a network no step of a training gives a gradient to, found without computing anything."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from medformer.training.losses.objectives import Moment, Objective


def unused_parameters(model: nn.Module, objective: Objective, item: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the trainable parameters that the loss does not depend on.

    Processes that train together exchange each gradient as soon as it is there, and wait for all of them. Where some
    never come, the whole graph must be searched for them in every step, which costs time where all do come.

    A step is taken on the meta device, where tensors have shapes and no numbers.

    Args:
        model: In any mode; it stays as it is.
        objective: What it is trained for.
        item: Of the training data.

    Returns:
        None where it cannot be told, because the network or the objective looks at numbers.
    """
    try:
        copy = deepcopy(model).to("meta").train()
        batch = _on_meta(objective.tensors(default_collate([item, item])))
        with torch.random.fork_rng(devices=[]):
            loss = objective(copy, batch, Moment(0, 0, 0))
        if loss.requires_grad:
            loss.backward()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
    # A parameter with several names is used where one of them is.
    reached = {name for name, own in copy.named_parameters(remove_duplicate=False) if own.grad is not None}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    return tuple(own[0] for own in names.values() if not reached.intersection(own))


def _on_meta(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _on_meta(value) for name, value in values.items()}
    return values.to("meta") if isinstance(values, Tensor) else values
