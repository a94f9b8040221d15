from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from medformer.models.backbone import norms
from medformer.models.backbone.blocks import Architecture, MetaFormerBlock
from medformer.models.backbone.layers import Conv3d, Pointwise, channels_last, pointwise, within_half
from medformer.models.backbone.mixers.pooling import Pooling
from medformer.models.backbone.mlp import StarReLU
from medformer.models.backbone.norms import InstanceNorm, NormName, make_norm


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(5, 6, 7), (4, 9), (11,)])
def test_instance_norm_is_torchs(batch: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(4), nn.GroupNorm(4, 4)
    with torch.no_grad():
        ours.weight.copy_(torch.rand(4))
        ours.bias.copy_(torch.rand(4))
    theirs.load_state_dict(ours.state_dict())
    sides = []
    for norm in (ours, theirs):
        x = channels_last(torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(1))).requires_grad_()
        y = norm(x)
        y.pow(3).sum().backward()
        sides.append([y, x.grad, norm.weight.grad, norm.bias.grad])
    for one, two in zip(*sides, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["map", "group", "instance", "joint"])
def test_norms_of_maps_compute_the_same_by_rows(name: NormName, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = make_norm(name, 4, (3, 5)), channels_last(torch.randn(2, 4, 3, 5))
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand(parameter.shape))
    expected = norm(x)
    monkeypatch.setattr(norms, "_gpu_rows", lambda x: True)
    found = norm(x)
    torch.testing.assert_close(found, expected)
    assert found.movedim(1, -1).is_contiguous()


class Copies(TorchDispatchMode):
    """Counts the operations that copy a tensor into another order of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["channel", "layer", "map", "group", "instance"])
def test_a_block_on_a_gpu_leaves_its_map_in_the_order_of_its_memory(norm: NormName) -> None:
    # Operations of a GPU on tensors without numbers, which have the order in memory that its kernels give them.
    with FakeTensorMode(), torch.device("cuda"):
        mixer = Pooling(8, spatial_dims=2)
        block = MetaFormerBlock(8, mixer, Architecture(["pooling"], norm=norm), drop_path=0.0, res_scale=False)
        x = torch.empty(2, 5, 6, 8).movedim(-1, 1)
        with Copies() as copies:
            y, _ = block(x)
            for normed in (block.norm1(x), block.mlp(x), y):
                assert normed.movedim(1, -1).is_contiguous()
    assert copies.found == []


def test_instance_norm_keeps_channels_last_and_takes_one_position() -> None:
    norm = InstanceNorm(4)
    assert norm(channels_last(torch.randn(2, 4, 3, 5, 6))).movedim(1, -1).is_contiguous()
    torch.testing.assert_close(norm(torch.randn(2, 4, 1, 1, 1)), torch.zeros(2, 4, 1, 1, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_volume_alone_is_convolved_as_in_a_batch(groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv, x = Conv3d(4, 8, (3, 3, 1), (2, 1, 1), (1, 1, 0), groups=groups, bias=bias), torch.randn(2, 4, 6, 7, 5)
    with torch.no_grad():
        batch, alone = conv(x), torch.cat([conv(x[:1]), conv(x[1:])])
    torch.testing.assert_close(alone, batch, atol=1e-5, rtol=1e-5)
    with_gradients = conv(x[:1])
    torch.testing.assert_close(with_gradients, alone[:1], atol=1e-5, rtol=1e-5)
    with_gradients.sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_float16_takes_maps_beyond_its_range(bias: bool) -> None:
    torch.manual_seed(0)
    layer = Pointwise(8, 4, bias=bias).half()
    x = torch.randn(3, 8, 5, 2) * torch.tensor([1.0, 1e4, 1e7]).view(3, 1, 1, 1)
    expected = pointwise(x, layer.weight.float(), None if layer.bias is None else layer.bias.float())
    found = within_half(layer, x, torch.float16, layer.bias)
    assert found.dtype == torch.float32
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-3 * float(two.detach().abs().max()))
    # What is in range is not scaled, whatever the other samples are.
    torch.testing.assert_close(found[:1], layer(x[:1].half()).float(), rtol=0, atol=0)
    # Not a number stays one, for whoever looks for it.
    x[1, 0, 0, 0] = torch.inf
    found = within_half(layer, x, torch.float16, layer.bias)
    assert not torch.isfinite(found[1]).all() and torch.isfinite(found[::2]).all()
    wide = Pointwise(8, 4, bias=bias)
    assert torch.equal(
        within_half(wide, expected.new_ones(1, 8, 2), torch.float32, wide.bias), wide(torch.ones(1, 8, 2))
    )


def test_a_lone_volume_keeps_channels_last() -> None:
    conv = Conv3d(4, 8, 3, padding=1)
    with torch.no_grad():
        assert conv(channels_last(torch.randn(1, 4, 6, 7, 5))).movedim(1, -1).is_contiguous()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((6, 7, 5), 3, 1, 1),
        ((7, 6, 5), 3, 2, 1),
        ((9, 4, 4), 2, 2, 0),
        ((1, 4, 5), (1, 3, 3), 1, (0, 1, 1)),
        ((1, 1, 1), 3, 1, 1),
        ((8, 3, 3), (5, 3, 3), (3, 1, 1), (2, 1, 1)),
    ],
)
def test_halves_of_a_lone_volume_give_its_convolution_and_gradients(
    size: tuple[int, ...], kernel: Any, stride: Any, padding: Any
) -> None:
    torch.manual_seed(0)
    conv, x = Conv3d(4, 6, kernel, stride, padding), torch.randn(1, 4, *size)
    sides = []
    for call in (conv, lambda image: nn.Conv3d.forward(conv, image)):
        image = x.clone().requires_grad_()
        conv.zero_grad()
        out = call(image)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        sides.append((out, image.grad, conv.weight.grad, conv.bias.grad))
    for one, two in zip(*sides, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(8, 16), (5, 7), (4, 8, 8), (136,), (3,), (1, 1)])
def test_a_pointwise_layer_is_a_convolution_with_its_gradients(size: tuple[int, ...], batch: int, last: bool) -> None:
    torch.manual_seed(0)
    layer, given = Pointwise(6, 5), torch.randn(batch, 6, *size)
    plain: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(size)]
    calls = (layer, lambda x: plain(x, layer.weight.view(5, 6, *[1] * len(size)), layer.bias))
    sides = []
    for call in calls:
        x = (channels_last(given) if last else given).clone().requires_grad_()
        layer.zero_grad()
        out = call(x)
        out.square().sum().backward()
        sides.append((out, x.grad, layer.weight.grad, layer.bias.grad))
    for one, two in zip(*sides, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (4, 6, 3)])
def test_torch_sees_that_the_channels_of_a_lone_map_are_last(size: tuple[int, ...], learning: bool) -> None:
    layer, x = Pointwise(4, 3), channels_last(torch.randn(1, 4, *size))
    known = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    with torch.set_grad_enabled(learning):
        for each in (x, channels_last(torch.randn(1, 1, *size)), layer(x)):
            # By the strides of axes of size 1 too, unlike `is_contiguous`.
            assert each.stride() == torch.empty(each.shape, memory_format=known).stride()


def test_an_activation_stays_in_the_type_of_its_map() -> None:
    act = StarReLU()
    with torch.no_grad():
        act.scale.fill_(1.3)
        act.bias.fill_(-0.2)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = 1.3 * torch.relu(x) ** 2 - 0.2
    torch.testing.assert_close(act(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(act(x), expected)
    low = act(x.bfloat16().requires_grad_())
    assert low.dtype is torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.02)


def test_a_pointwise_layer_is_one_graph() -> None:
    layer, x = Pointwise(4, 3), channels_last(torch.randn(2, 4, 5, 6))
    # Raises where the compiler must leave the graph, as it must for a question about the machine.
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
