"""The MLP of a block, its activations, and how its second matrix may depend on its first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medformer.models.backbone.layers import Pointwise, pointwise, wide, within_half

Activation = Literal["star_relu", "gelu", "plain_gelu"]


class _SquaredReLU(torch.autograd.Function):
    """`relu(x)^2`, keeping one tensor for the backward pass where plain autograd keeps two."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        positive = torch.relu(x)
        return wide(positive) * positive, positive

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        # In one pass over the largest tensor of a block: 0 + 2 * grad * positive.
        return torch.addcmul(grads[0].new_zeros(()), grads[0], positive, value=2)


def squared_relu(x: Tensor, *, spare: bool = False) -> Tensor:
    """`relu(x)^2`, elementwise; float32 of float16, whose largest number is the square of 255.9.

    Args:
        x: Of any shape.
        spare: Whether nothing else reads `x`, so that its memory may be taken.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        squared: Tensor = _SquaredReLU.apply(x)[0]  # type: ignore[no-untyped-call]
        return squared
    positive = wide(torch.relu_(x) if spare and not torch.is_grad_enabled() else torch.relu(x))
    return positive.mul_(positive)


class StarReLU(nn.Module):
    """`scale * relu(x)^2 + bias` with one learnable pair (Yu et al., MetaFormer Baselines for Vision, eq. 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        squared = squared_relu(x)
        # Numbers and not vectors of one: beside those, a map in bfloat16 becomes one in float32, of twice the memory.
        scale, bias = self.scale.view(()), self.bias.view(())
        if torch.is_grad_enabled():
            return squared * scale + bias
        return squared.mul_(scale).add_(bias)


@dataclass(frozen=True)
class Tying:
    """What the second matrix of an MLP is (Ota and Taki, hierarchical associative memory and mixers, 2024).

    Attributes:
        kind: `free`: a matrix of its own; `symmetric`: the first one transposed, as an energy demands;
            `asymmetric`: the first one transposed plus a matrix of its own.
        penalty: Factor of the sum of squares of that last matrix, which training adds to the loss.
    """

    kind: Literal["free", "symmetric", "asymmetric"] = "free"
    penalty: float = 0.0


class TiedMlp(nn.Module):
    """Two matrices, the second of which may depend on the first (see `Tying`).

    Attributes:
        fc1: The first, with a bias if wanted.
        fc2: What the second has of its own; None where it is the first one transposed.
    """

    def __init__(self, outer: int, hidden: int, tying: Tying, *, bias: bool = False) -> None:
        super().__init__()
        if bias and tying.kind != "free":
            raise ValueError(f"{tying.kind} weights: got an activation with biases, expected star_relu or plain_gelu")
        self.tying = tying
        self.fc1 = Pointwise(outer, hidden, bias=bias)
        self.fc2 = None if tying.kind == "symmetric" else Pointwise(hidden, outer, bias=bias)

    def second(self) -> Tensor:
        """Return the second matrix, `(outer, hidden)`."""
        if self.fc2 is None:
            return self.fc1.weight.T
        return self.fc2.weight if self.tying.kind == "free" else self.fc1.weight.T + self.fc2.weight

    def penalty(self) -> Tensor:
        """Return what training adds to the loss, a number; 0 unless the second matrix is asymmetric."""
        if self.fc2 is None or self.tying.kind == "free":
            return self.fc1.weight.new_zeros(())
        return self.tying.penalty * self.fc2.weight.square().sum()


def tying_penalty(model: nn.Module) -> Tensor | float:
    """Return the sum of the penalties of a network's asymmetric layers; 0.0 where it has none."""
    asymmetric = (m for m in model.modules() if isinstance(m, TiedMlp) and m.tying.kind == "asymmetric")
    return sum((module.penalty() for module in asymmetric), start=0.0)


class Mlp(TiedMlp):
    """Two pointwise layers with StarReLU or plain GELU (no biases) or GELU (biases) between them."""

    def __init__(self, channels: int, ratio: float, activation: Activation, tying: Tying | None = None) -> None:
        super().__init__(channels, max(1, int(channels * ratio)), tying or Tying(), bias=activation == "gelu")
        self.act = StarReLU() if activation == "star_relu" else nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        weight = self.second()
        if not isinstance(self.act, StarReLU):
            return pointwise(self.act(hidden), weight, None if self.fc2 is None else self.fc2.bias)
        # fc2(s*r + b) = (s*fc2)(r) + b*rowsum(fc2): the affine part costs a pass over the small weight
        # instead of two over the hidden map, the largest tensor of the block.
        matrix, bias = weight * self.act.scale, self.act.bias * weight.sum(1)
        return within_half(lambda r: pointwise(r, matrix, bias), squared_relu(hidden, spare=True), hidden.dtype, bias)
