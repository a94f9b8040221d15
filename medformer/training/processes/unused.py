"""Which parameters of a network no step of a training gives a gradient to, found without computing anything."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
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
        given = objective.tensors(default_collate([item, item]))
        batch = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), given)
        with torch.random.fork_rng(devices=[]):
            loss = objective(copy, batch, Moment(0, 0, 0))
        if loss.requires_grad:
            loss.backward()
    except Exception:
        # Whatever it is: what is wrong with the network itself, its first real step says.
        return None
    # A parameter with several names is used where one of them is.
    reached = {name for name, own in copy.named_parameters(remove_duplicate=False) if own.grad is not None}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    return tuple(own[0] for own in names.values() if not reached.intersection(own))
