"""Whether a network computes in bfloat16 what it computes in float32, but for rounding: tried on one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from medformer.models.precision import autocast
from medformer.training.small_convolutions import ExactSmallConvolutions

LIMIT = 8.0
"""How many times further than rounding its weights and input alone takes a network, bfloat16 may take it.

That rounding is the least that bfloat16 does. With every map rounded too it was 1.1 to 3.4 times as much for networks
of images and volumes, on a batch of noise, where the logits of an untrained network with batch norm move by up to 35 %.
"""

_SIDES = {2: 128, 3: 48}
"""Longest axis of what is compared, by the number of axes: enough for every layer, and a fraction of a second."""

_NEGLIGIBLE = 2.0**-8
"""Relative difference that is never too large: bfloat16 has eight binary digits."""


class Parity(NamedTuple):
    """How far bfloat16 takes a network from float32 in a training step, as shares of the norm in float32.

    Attributes:
        output: Of all logits.
        gradient: Of the whole gradient.
        rounded_output: Of the logits, with nothing but weights and input rounded to bfloat16.
        rounded_gradient: The same of the gradient.
        finite: Whether logits and gradients are finite.
    """

    output: float
    gradient: float
    rounded_output: float
    rounded_gradient: float
    finite: bool

    @property
    def close(self) -> bool:
        """Whether nothing is further off than rounding explains."""
        pairs = ((self.output, self.rounded_output), (self.gradient, self.rounded_gradient))
        return self.finite and all(found <= LIMIT * max(least, _NEGLIGIBLE) for found, least in pairs)


def bfloat16_parity(build: Callable[[], nn.Module], inputs: Any, device: torch.device) -> Parity:
    """Compare a training step in bfloat16 with one in float32, and with one of rounded weights and input in float32.

    Args:
        build: Returns the network, each time the same; it is trained no further.
        inputs: What it takes: a tensor, or tensors by name.
        device: Where to compute.

    Raises:
        RuntimeError: The network cannot compute on such a batch, or not in bfloat16.
    """
    given = tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs)
    rounded = tree_map_only(Tensor, lambda tensor: tensor.bfloat16().float(), given)
    full = _step(build(), given, device, low=False)
    low = _step(build(), given, device, low=True)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    least = _step(model, rounded, device, low=False)
    return Parity(
        output=_apart(full[0], low[0]),
        gradient=_apart(full[1], low[1]),
        rounded_output=_apart(full[0], least[0]),
        rounded_gradient=_apart(full[1], least[1]),
        finite=all(bool(torch.isfinite(part).all()) for part in low),
    )


def noise(channels: int, size: Sequence[int]) -> Tensor:
    """Two small cases of noise to compare on, `(2, channels, *S)`, the same each time; `size` limits its axes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *[min(int(n), _SIDES[len(size)]) for n in size], generator=generator)


def _step(model: nn.Module, inputs: Any, device: torch.device, *, low: bool) -> tuple[Tensor, Tensor]:
    """All logits and the whole gradient of their mean square, each in one row."""
    model.to(device).train()
    guarded = ExactSmallConvolutions() if low and device.type == "cpu" else nullcontext()
    # Dropout and stochastic depth draw the same each time.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), guarded:
        torch.manual_seed(0)
        with autocast(device, "bf16-mixed" if low else "32-true"):
            outputs = [output.float() for output in tree_leaves(model(inputs)) if isinstance(output, Tensor)]
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([output.detach().flatten() for output in outputs]), torch.cat(gradients)


def _apart(full: Tensor, found: Tensor) -> float:
    return float((found - full).norm() / full.norm().clamp_min(1e-30))
