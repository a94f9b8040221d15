"""Linear layers on oneDNN: the values and gradients of torch's, and torch's own where oneDNN is not meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from medformer.models import linear as module
from medformer.models.linear import Linear, linear

SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "squares": lambda out: out.square().sum(),
    "turned": lambda out: out.transpose(0, -1).sum(),
}


@pytest.mark.parametrize("reduce", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("shape", [(64, 300), (3, 7, 50), (2, 3, 4, 8), (1, 5)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], biased: bool, reduce: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(9, shape[-1]), torch.randn(9) if biased else None
    found = []
    for layer in (linear, F.linear):
        given = [None if one is None else one.clone().requires_grad_() for one in (x, weight, bias)]
        out = layer(*given)
        found.append([out, *torch.autograd.grad(reduce(out), [one for one in given if one is not None])])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_what_it_gives_can_be_changed_in_place() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, requires_grad=True), torch.randn(4, 5)
    (ours,) = torch.autograd.grad(torch.relu_(linear(x, weight, None)).sum(), x)
    (theirs,) = torch.autograd.grad(torch.relu(F.linear(x, weight)).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_it_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    sides = []
    for layer in (linear, F.linear):
        (slope,) = torch.autograd.grad(layer(x, weight, None).pow(3).sum(), x, create_graph=True)
        sides.append(torch.autograd.grad(slope.square().sum(), (x, weight)))
    for one, two in zip(*sides, strict=True):
        torch.testing.assert_close(one, two)


def test_inputs_in_any_layout_are_read_right() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 5)
    for x in (torch.randn(6, 4, 5).transpose(0, 1), torch.randn(1, 5).expand(7, 5), torch.randn(0, 5)):
        assert torch.allclose(linear(x, weight, None), F.linear(x, weight), atol=1e-5)


def test_what_is_not_in_float32_is_not_eager_or_is_transformed_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(5, 3)
    x = torch.randn(4, 5)
    expected = F.linear(x, layer.weight, layer.bias)
    monkeypatch.setattr(module, "_product", lambda *given: pytest.fail("oneDNN was asked"))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    assert torch.allclose(vmap(layer)(x), expected, atol=1e-6)
    exported = torch.export.export(layer, (x,), strict=False).module()
    assert torch.allclose(exported(x), expected, atol=1e-6)
    monkeypatch.setattr(module, "_has_kernel", lambda: False)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
