"""How a step changes the weights: AdamW, its learning rate, and the running average of the weights.

Weight decay is where it belongs, and the learning rate is a function of how much of the run has passed, counted in
steps or in seconds. The average is what is validated, saved and used afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from time import monotonic
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from medformer.config.shared import TrainingConfig
from medformer.errors import ConfigError
from medformer.models.backbone.mixers.hopfield_memory import memory_banks
from medformer.models.networks.pretrained import network_encoder

_SHARE = "lr_share"


def build_optimizer(model: nn.Module, config: TrainingConfig) -> AdamW:
    """Return AdamW over the trainable parameters; weights that mix channels or positions decay, others do not.

    Biases, and factors of single channels such as those of norms, whose shape is `(C,)` or `(C, 1, ...)`, do not mix.

    The encoder learns at `config.encoder_lr` times the rate of the rest, in groups of its own where that is not 1.

    The fused kernel takes a third of the looped one's time on a CPU. It is left out with float16, because it unscales
    gradients by itself, and then they could not be clipped.

    Args:
        model: The network.
        config: Gives the peak learning rate, the encoder's share of it, the weight decay and the precision.

    Raises:
        ConfigError: The encoder is to have another rate, and the network has none of its own.
    """
    encoder = network_encoder(model) if config.encoder_lr != 1.0 else None
    if encoder is None and config.encoder_lr != 1.0:
        raise ConfigError(
            f"training.encoder_lr={config.encoder_lr:g} is the rate of an encoder, and {type(model).__name__} has none "
            "that is apart from the rest. Set training.encoder_lr=1."
        )
    inside = {id(parameter) for parameter in encoder.parameters()} if encoder is not None else set()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            share = config.encoder_lr if id(parameter) in inside else 1.0
            groups.setdefault((share, prod(parameter.shape[1:]) > 1), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, _SHARE: share}
            for (share, decays), parameters in groups.items()
        ],
        lr=config.lr,
        fused=config.precision != "16-mixed",
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group the learning rate, or its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SHARE, 1.0)


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


def run_progress(step: int, total_steps: int, elapsed: float, budget: float | None) -> float:
    """Return how much of the run has passed, in [0, 1].

    Args:
        step: Optimizer steps already taken.
        total_steps: Steps of the whole run; not used with a budget.
        elapsed: Seconds already spent, earlier parts of a resumed run included.
        budget: Seconds the run may take; None counts steps. By steps, a step stands at the middle of its share, so
            that neither the first nor the last one is spent on a learning rate of zero.
    """
    share = (step + 0.5) / total_steps if budget is None else elapsed / budget
    return min(max(share, 0.0), 1.0)


def learning_rate_factor(
    progress: float,
    warmup: float,
    *,
    schedule: Literal["cosine", "exponential", "constant"] = "cosine",
    epoch: int = 0,
    decay: float = 1.0,
) -> float:
    """Return the share of the peak learning rate: a linear rise from 0 over `warmup`, times what the schedule says.

    `cosine` falls to 0 over the rest of the run, `exponential` is multiplied by `decay` after every epoch from the
    first on, whatever the warm-up, `constant` stays at 1.

    Args:
        progress: Part of the run that has passed, in [0, 1].
        warmup: Part of the run spent warming up, in [0, 1].
        schedule: How the rate falls.
        epoch: Epochs completed, for `exponential`.
        decay: Its factor per epoch.
    """
    rise = progress / warmup if progress < warmup else 1.0
    if schedule == "exponential":
        return rise * decay**epoch
    if schedule == "constant" or progress < warmup or warmup >= 1.0:
        return rise
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


class Clock:
    """Seconds spent on a run; a resumed run starts where the saved one stopped."""

    def __init__(self, already: float = 0.0) -> None:
        self._start = monotonic() - already

    def elapsed(self) -> float:
        """Seconds so far, pauses between a stop and its resume left out."""
        return monotonic() - self._start


class WeightAverage:
    """Exponential moving average of a model's parameters and floating-point buffers.

    At update t = 1, 2, ... `average = d * average + (1 - d) * weights` with `d = min(decay, (1 + t) / (10 + t))`: the
    early, bad weights are forgotten soon, and short runs are averaged over a share of their length. Running statistics
    of batch normalization are averaged as well, so that they belong to the averaged weights; integers are copied.
    A memory is neither averaged nor copied: `medformer.training.banks` fills that of the averaged weights.

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
        self._banks = {f"{place}.{name}" for place, bank in memory_banks(model).items() for name in bank.state_dict()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take the model's present weights in; `updates` counts from 1."""
        if not self._average:
            return
        weight = 1.0 - min(self.decay, (1.0 + updates) / (10.0 + updates))
        averaged, latest = [], []
        for name, tensor in self._live.items():
            if name in self._banks:
                continue
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
