"""Which tensors of a network another one takes, which it adapts, and which keep their first values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medformer.config.shared import ModelConfig
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.transfer import Parts, transfer, varying_axes

CONFIG = ModelConfig(name="meta_unet", backbone="convformer_v8", init="fan_in", deep_supervision=True)
FLAT = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
ONE_DEEP = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))


def network(
    channels: int = 1, classes: int = 2, *, strides: tuple[tuple[int, ...], ...] | None = None, kernels: object = None
) -> nn.Module:
    return build_network(CONFIG, Grid(channels, classes, (16, 16, 16), None, strides, kernels)).eval()


def test_an_equal_network_is_taken_whole() -> None:
    old, new = network(), network()
    found = transfer(new, old.state_dict())
    assert not found.adapted and not found.left and not found.unused and found.share == 1.0
    assert set(found.taken) == set(new.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(old(image), new(image))


def test_classes_are_taken_by_their_names() -> None:
    old, new = network(classes=3), network(classes=4)
    heads = varying_axes(new, network(classes=5))
    assert heads.keys() == {"decoder.head.weight", "decoder.head.bias"} | {
        f"decoder.auxiliary.{level}.{part}" for level in (0, 1) for part in ("weight", "bias")
    }
    parts = Parts(0, ("background", "tumor", "spleen", "liver"), ("background", "liver", "tumor"))
    first = new.state_dict()["decoder.head.weight"].clone()
    found = transfer(new, old.state_dict(), parts=dict.fromkeys(heads, parts))
    before, after = (one.state_dict()["decoder.head.weight"] for one in (old, new))
    assert torch.equal(after[[0, 1, 3]], before[[0, 2, 1]]) and torch.equal(after[2], first[2])
    assert found.adapted.keys() == heads.keys() and not found.left
    assert found.adapted["decoder.head.bias"] == "of background, tumor, spleen, liver: background, tumor, liver"


def test_a_head_for_other_things_is_not_taken_though_it_fits() -> None:
    new = network()
    first = new.state_dict()["decoder.head.bias"].clone()
    found = transfer(
        new, network().state_dict(), parts={"decoder.head.bias": Parts(0, ("liver", "lesion"), ("a", "b"))}
    )
    assert found.left == {"decoder.head.bias": "for a, b"}
    assert torch.equal(new.state_dict()["decoder.head.bias"], first)


def test_kernels_over_the_input_keep_their_response_to_equal_channels() -> None:
    old, new = network(1), network(3)
    stems = varying_axes(new, network(4))
    assert set(stems.values()) == {1}
    found = transfer(new, old.state_dict(), stems=stems)
    assert found.adapted.keys() == stems.keys() and not found.left
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(new(image.expand(-1, 3, -1, -1, -1)), old(image), rtol=1e-4, atol=1e-4)
    # Without the knowledge that these axes are the input's channels, nothing is made of them.
    assert set(transfer(network(3), old.state_dict()).left) == set(stems)


def test_kernels_of_another_plan_are_summed_or_spread() -> None:
    flat = network(strides=FLAT, kernels=ONE_DEEP)
    cube = network(strides=FLAT, kernels=((3, 3, 3),) * 4)
    found = transfer(cube, flat.state_dict())
    assert not found.left and any("from kernel 1 x" in how for how in found.adapted.values())
    back = transfer(flat, cube.state_dict())
    assert not back.left
    # Spread over three positions and summed again, a kernel is what it was.
    for name in found.adapted.keys() & back.adapted.keys():
        torch.testing.assert_close(
            cube.state_dict()[name].sum(2), flat.state_dict()[name].squeeze(2), rtol=1e-5, atol=1e-6
        )
    old, new = nn.Conv2d(4, 4, 7), nn.Conv2d(4, 4, 3)
    assert transfer(new, old.state_dict()).left == {"weight": "(4, 4, 7, 7) there, (4, 4, 3, 3) here"}


def test_what_must_not_be_taken_says_why() -> None:
    old, new = nn.Linear(3, 3), nn.Linear(3, 3)
    found = transfer(new, {**old.state_dict(), "more": torch.ones(1)}, unlike={"bias": "other regions"})
    assert found.left == {"bias": "other regions"} and found.taken == ("weight",) and found.unused == ("more",)
    assert found.share == pytest.approx(9 / 12)
    assert str(found) == (
        "1 of 2 tensors taken as they are, 0 adapted, 1 (bias: other regions) left at their first values; "
        "75 % of the parameters are from there"
    )


def test_parts_along_any_axis_may_change_places() -> None:
    old, new = nn.Linear(6, 2), nn.Linear(6, 2)
    found = transfer(new, old.state_dict(), parts={"weight": Parts(1, ("b", "a"), ("a", "b"))})
    assert torch.equal(new.weight[:, :3], old.weight[:, 3:]) and torch.equal(new.weight[:, 3:], old.weight[:, :3])
    assert found.adapted.keys() == {"weight"}
