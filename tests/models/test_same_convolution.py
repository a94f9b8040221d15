"""Convolutions with TensorFlow's padding: what timm computes, in one exported graph for all multiples of the stride."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from medformer.models.backbone.same_convolution import SameConv2d, with_known_padding


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (16, 13), (6, 6)])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 2, 1), (5, 2, 4), (3, 3, 1), (2, 2, 4)])
def test_it_computes_what_timm_does(size: tuple[int, int], kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Sequential(Conv2dSame(4, 8, kernel, stride, groups=groups, bias=False)))
    x = torch.randn(2, 4, *size)
    with torch.no_grad():
        expected, names = theirs(x), list(theirs.state_dict())
        ours = with_known_padding(theirs)
        torch.testing.assert_close(ours(x), expected)
    assert isinstance(ours[0][0], SameConv2d) and list(ours.state_dict()) == names  # type: ignore[index]


def test_one_graph_serves_all_multiples_of_its_stride() -> None:
    network = with_known_padding(nn.Sequential(Conv2dSame(1, 2, 3, 2), Conv2dSame(2, 2, 5, 2))).eval()
    rows, columns = (4 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    exported = torch.export.export(network, (torch.randn(1, 1, 16, 24),), dynamic_shapes=({2: rows, 3: columns},))
    x = torch.randn(1, 1, 32, 12)
    torch.testing.assert_close(exported.module()(x), network(x))
