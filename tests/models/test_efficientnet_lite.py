"""EfficientNet-Lite0 and its padding: what timm computes, in one exported graph for all multiples of the stride."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from medformer.models.backbone.efficientnet_lite import (
    LITE0,
    EfficientNetLite0,
    SameConv2d,
    whole_lite0,
    with_known_padding,
)
from medformer.tensor_file import shapes


def is_timms(module: nn.Module) -> bool:
    return isinstance(module, Conv2dSame)


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (16, 13), (6, 6)])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 2, 1), (5, 2, 4), (3, 3, 1), (2, 2, 4)])
def test_it_computes_what_timm_does(size: tuple[int, int], kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Sequential(Conv2dSame(4, 8, kernel, stride, groups=groups, bias=False)))
    x = torch.randn(2, 4, *size)
    with torch.no_grad():
        expected, names = theirs(x), list(theirs.state_dict())
        ours = with_known_padding(theirs, is_timms)
        torch.testing.assert_close(ours(x), expected)
    assert isinstance(ours[0][0], SameConv2d) and list(ours.state_dict()) == names  # type: ignore[index]


def test_one_graph_serves_all_multiples_of_its_stride() -> None:
    network = with_known_padding(nn.Sequential(Conv2dSame(1, 2, 3, 2), Conv2dSame(2, 2, 5, 2)), is_timms).eval()
    rows, columns = (4 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    exported = torch.export.export(network, (torch.randn(1, 1, 16, 24),), dynamic_shapes=({2: rows, 3: columns},))
    x = torch.randn(1, 1, 32, 12)
    torch.testing.assert_close(exported.module()(x), network(x))


@pytest.mark.parametrize("channels", [3, 1])
def test_lite0_is_timms_from_its_first_weights_on(channels: int) -> None:
    torch.manual_seed(0)
    theirs = with_known_padding(timm.create_model(LITE0, features_only=True, in_chans=channels), is_timms)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    ours = EfficientNetLite0(channels)
    # What is drawn after it is the same too.
    assert torch.equal(torch.rand(3), drawn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.module_name() == theirs.feature_info.module_name()
    x = torch.randn(2, channels, 65, 96)
    for network in (ours, theirs):
        network.train()
    for mine, other in zip(ours(x), theirs(x), strict=True):
        assert torch.equal(mine, other)
    # The statistics that the step has left are the same, and so are the maps of a prediction.
    ours.eval(), theirs.eval()
    for mine, other in zip(ours(x), theirs(x), strict=True):
        assert torch.equal(mine, other)


def test_files_of_the_whole_network_have_timms_names() -> None:
    with torch.device("meta"):
        theirs = timm.create_model(LITE0)
        assert list(shapes(whole_lite0().state_dict()).items()) == list(shapes(theirs.state_dict()).items())
