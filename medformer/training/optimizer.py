"""AdamW with weight decay where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from medformer.config.shared import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> AdamW:
    """Return AdamW over the trainable parameters; weights that mix channels or positions decay, others do not.

    Biases, and factors of single channels such as those of norms, whose shape is `(C,)` or `(C, 1, ...)`, do not mix.

    The fused kernel takes a third of the looped one's time on a CPU. It is left out with float16, because it unscales
    gradients by itself, and then they could not be clipped.

    Args:
        model: The network.
        config: Gives the peak learning rate, the weight decay and the precision.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[prod(parameter.shape[1:]) > 1].append(parameter)
    return AdamW(
        [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=config.lr,
        fused=config.precision != "16-mixed",
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's memory as `<parameter number>.<name>` -> tensor; empty before the first step."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Continue from what `optimizer_tensors` gave for the same parameters in the same order."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    with torch.no_grad():
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
