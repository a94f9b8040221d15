"""Linear layers that oneDNN computes on a CPU, with their gradients: on AMD's with AVX-512 in half of MKL's time."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.onednn import runs_onednn


class Linear(nn.Linear):
    """`torch.nn.Linear`, with the same parameters and initial values."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias`, `(..., in) -> (..., out)`.

    Elsewhere than on a CPU in float32, in what is compiled or exported, and inside function transforms it is torch's.
    """
    eager = runs_onednn(x) and not torch.compiler.is_exporting() and not _transformed(x, weight)
    if not (eager and weight.dtype == x.dtype and x.numel() and _has_kernel()):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (x, weight, bias)):
        # Of rows, because a kernel's view of what it made could not be changed in place.
        rows: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
        return rows.view(*x.shape[:-1], len(weight))
    return _product(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            linear(gradient, weight.t(), None) if wanted[0] else None,
            _over_rows(gradient, x) if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )


def _over_rows(gradient: Tensor, x: Tensor) -> Tensor:
    """Return `gradient.T @ x`. oneDNN copies turned matrices first, which only its speed with AVX-512 makes up for."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return gradient.t() @ x
    return linear(gradient.t(), x.t(), None)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Gradients of a mean are one number that stands for many, which oneDNN cannot read.
    dense = x if x.is_contiguous() or (x.dim() == 2 and x.t().is_contiguous()) else x.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(dense, weight, bias, "none", [], "")
    return found


@cache
def _has_kernel() -> bool:
    """Whether this torch has the kernel, which it does not document, and computes with it what it should."""
    rows, weight, bias = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.ones(3)
    try:
        with torch.no_grad():
            return torch.equal(_product(rows, weight, bias), weight.t() + 1)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _transformed(*tensors: Tensor) -> bool:
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)
