"""Layers whose kernels on a CPU are chosen here and not by torch: they compute what torch computes."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import nn

from medformer.models.backbone.layers import same_convolution
from medformer.models.onednn import Depthwise2d, Depthwise3d


@pytest.mark.parametrize(("dims", "size"), [(2, (9, 14)), (2, (3, 4)), (3, (6, 7, 5)), (3, (2, 5, 4)), (3, (1, 1, 1))])
def test_a_depthwise_layer_learns_in_bfloat16_but_for_rounding(dims: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = same_convolution(dims, 6, 6, 5 if dims == 2 else 3, groups=6)
    assert isinstance(layer, Depthwise2d if dims == 2 else Depthwise3d)
    given = torch.randn(2, 6, *size)
    sides = []
    for low in (False, True):
        x = given.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = layer(x)
        assert out.dtype is (torch.bfloat16 if low else torch.float32)
        (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        sides.append((out.float(), x.grad, layer.weight.grad))
        assert x.grad is not None and x.grad.dtype is layer.weight.grad.dtype is torch.float32
    for one, two in zip(*sides, strict=True):
        assert (two - one).norm() < 0.02 * one.norm()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    ("channels", "kernel", "size"),
    [
        *((6, 7, (9, 14)), (6, 5, (3, 2)), (6, 3, (4, 5)), (6, (7, 1), (6, 6))),
        *((6, 3, (6, 7, 5)), (6, 5, (2, 5, 1)), (6, (3, 1, 3), (4, 4, 4))),
        # Large enough for groups of channels, of which the last is smaller.
        (18, (3, 1, 3), (16, 16, 17)),
    ],
)
def test_gradients_of_a_depthwise_layer_are_torchs(
    channels: int, kernel: int | tuple[int, ...], size: tuple[int, ...], last: bool, frozen: bool
) -> None:
    torch.manual_seed(0)
    layer = same_convolution(len(size), channels, channels, kernel, groups=channels).requires_grad_(not frozen)
    plain: Any = nn.Conv2d if len(size) == 2 else nn.Conv3d
    given = torch.randn(2, channels, *size)
    if last:
        given = given.movedim(1, -1).contiguous().movedim(-1, 1)
    weights = torch.linspace(-1, 1, given.numel()).view_as(given)
    sides = []
    for forward, precise in ((layer.forward, torch.float32), (partial(plain.forward, layer), torch.float64)):
        layer.zero_grad()
        layer.to(precise)
        x = given.detach().clone().to(precise).requires_grad_()
        out = forward(x)
        (out * weights).sum().backward()
        assert x.grad is not None and (layer.weight.grad is None) is frozen
        sides.append([one.double() for one in (out, x.grad, layer.weight.grad) if one is not None])
    for one, two in zip(*sides, strict=True):
        assert (two - one).abs().max() < 1e-5 * two.abs().max()


def test_a_depthwise_layer_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    layer, plain = same_convolution(3, 2, 2, 3, groups=2), cast(Any, nn.Conv3d)
    x = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    sides = []
    for forward in (layer.forward, partial(plain.forward, layer)):
        (slope,) = torch.autograd.grad(forward(x).square().sum(), x, create_graph=True)
        sides.append(torch.autograd.grad(slope.square().sum(), (x, layer.weight)))
    for one, two in zip(*sides, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_what_has_no_weights_to_learn_is_torchs_own() -> None:
    torch.manual_seed(0)
    layer, x = same_convolution(2, 4, 4, 3, groups=4), torch.randn(1, 4, 5, 6)
    layer.requires_grad_(False)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context, torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))


def test_other_groups_are_plain_convolutions() -> None:
    assert type(same_convolution(2, 4, 8, 3, groups=4)) is nn.Conv2d
    assert type(same_convolution(2, 1, 1, 3)) is nn.Conv2d
