"""Gradients of 3-D convolutions of maps that are smaller than their kernel, in bfloat16 on a CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from medformer.training.small_convolutions import ExactSmallConvolutions


def gradients(size: tuple[int, int, int], *, low: bool) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    layer, x = nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, *size)
    with ExactSmallConvolutions() if low else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = layer(x)
        assert out.dtype is (torch.bfloat16 if low else torch.float32)
        out.float().square().sum().backward()
    assert layer.weight.grad is not None and layer.bias is not None and layer.bias.grad is not None
    return layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize("size", [(2, 2, 2), (4, 3, 2), (4, 4, 4)])
def test_weights_get_the_gradient_of_full_precision_but_for_rounding(size: tuple[int, int, int]) -> None:
    for found, right in zip(gradients(size, low=True), gradients(size, low=False), strict=True):
        assert float((found - right).norm() / right.norm()) < 0.01
