from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medformer.connectome.measures import to_triangle
from medformer.errors import ConfigError, DataError
from medformer.training.losses.objectives import Moment
from medformer.training.pretraining.masks import BlockMask, ConnectionMask
from medformer.training.pretraining.pretrain import MaskedReconstruction, masked_error

REGIONS = {"a": 10, "b": 25}
NOW = Moment(0, 0, 0)


def edges(subjects: int = 6, diagonal: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        atlas: torch.randn(subjects, n * (n + 1 if diagonal else n - 1) // 2, generator=generator)
        for atlas, n in REGIONS.items()
    }


def test_edges_are_hidden_at_the_ratio_and_anew_for_each_subject() -> None:
    given = edges(400)
    masks = ConnectionMask(0.1, REGIONS).draw(given)
    for atlas, mask in masks.items():
        assert mask.dtype == torch.bool and mask.shape == given[atlas].shape
        assert mask.float().mean().item() == pytest.approx(0.1, abs=0.01)
        assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_hidden_region_loses_all_its_connections_and_no_others(diagonal: bool) -> None:
    given = edges(diagonal=diagonal)
    masks = ConnectionMask(0.2, REGIONS, kind="regions").draw(given)
    for atlas, count in REGIONS.items():
        hidden = round(0.2 * count)
        for row in masks[atlas]:
            # Each matrix entry names the regions that it connects.
            names = np.arange(count)[:, None] * 1000.0 + np.arange(count)
            touched = to_triangle(names[None], diagonal)[0][row.numpy()]
            ends = np.stack([touched // 1000, touched % 1000]).T
            regions = [r for r in range(count) if (ends == r).any(1).sum() == count - (not diagonal)]
            assert len(regions) == hidden and all(set(pair) & set(regions) for pair in ends)


def test_at_least_one_region_is_hidden() -> None:
    masks = ConnectionMask(0.01, REGIONS, kind="regions").draw(edges())
    assert masks["a"].sum(1).tolist() == [9] * 6


@pytest.mark.parametrize(("ratio", "hidden"), [(0.1, 1), (0.6, 2), (0.99, 2)])
def test_whole_atlases_are_hidden_and_never_all(ratio: float, hidden: int) -> None:
    given = {**edges(60), "c": torch.randn(60, 3)}
    masks = ConnectionMask(ratio, {**REGIONS, "c": 3}, kind="atlases").draw(given, torch.Generator().manual_seed(0))
    assert all(mask.shape == given[atlas].shape and mask.dtype == torch.bool for atlas, mask in masks.items())
    assert all(torch.equal(mask.all(1), mask.any(1)) for mask in masks.values())
    gone = torch.stack([mask[:, 0] for mask in masks.values()])
    assert gone.sum(0).tolist() == [hidden] * 60 and bool(gone.any(1).all()) and not bool(gone.all(1).any())
    with pytest.raises(ConfigError, match="one atlas, a; expected at"):
        ConnectionMask(ratio, REGIONS, kind="atlases").draw({"a": given["a"]})


def test_masks_follow_torchs_generator_or_the_one_given() -> None:
    objective = ConnectionMask(0.3, REGIONS)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(objective.draw(edges())["a"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.manual_seed(1)
    own = [objective.draw(edges(), torch.Generator().manual_seed(7))["b"] for _ in range(2)]
    assert torch.equal(own[0], own[1]) and torch.equal(objective.draw(edges())["a"], drawn[0])


def test_only_what_is_hidden_counts_and_it_does_not_reach_the_network() -> None:
    objective, given = MaskedReconstruction(ConnectionMask(0.25, REGIONS)), edges()
    seen: list[dict[str, Tensor]] = []

    def network(shown: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(shown)
        # Wrong by 100 where something was shown, by exactly 2 where it was hidden.
        return {atlas: torch.where(shown[atlas] == 0, given[atlas] + 2, 100.0) for atlas in shown}

    loss = objective(network, {"edges": given}, NOW)
    assert loss.item() == pytest.approx(4.0 * len(REGIONS), rel=1e-5), "summed over the atlases"
    for atlas, block in given.items():
        hidden = seen[0][atlas] == 0
        assert hidden.any() and torch.equal(seen[0][atlas][~hidden], block[~hidden])


def test_noise_is_on_the_input_and_not_on_the_target() -> None:
    objective, given = MaskedReconstruction(ConnectionMask(0.25, REGIONS, noise=0.5)), edges(200)
    before = {atlas: block.clone() for atlas, block in given.items()}
    shown: dict[str, Tensor] = {}

    def network(found: dict[str, Tensor]) -> dict[str, Tensor]:
        shown.update(found)
        return given

    assert objective(network, {"edges": given}, NOW).item() == 0.0
    for atlas, block in given.items():
        assert torch.equal(block, before[atlas])
        kept = shown[atlas] != 0
        assert (shown[atlas] - block)[kept].std().item() == pytest.approx(0.5, rel=0.05)


def test_an_empty_mask_costs_nothing() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    error = masked_error(values, torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    error.backward()  # type: ignore[no-untyped-call]
    assert error.item() == 0.0 and values.grad is not None and not values.grad.any()


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        ConnectionMask(ratio, REGIONS)


def test_connections_that_fit_no_matrix_are_refused() -> None:
    broken: dict[str, Any] = {"a": torch.zeros(2, 44)}
    with pytest.raises(DataError, match=r"'a' has 44 connections per subject; expected 45, or 55"):
        ConnectionMask(0.1, REGIONS, kind="regions").draw(broken)


def images_of(*size: int) -> Tensor:
    return torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("block", "ratio", "size"), [(4, 0.6, (16, 12, 8)), (3, 0.25, (10, 7, 2)), (1, 0.5, (3, 3, 3)), (8, 0.6, (40, 33))]
)
def test_whole_blocks_are_hidden_and_as_many_as_asked_for(block: int, ratio: float, size: tuple[int, ...]) -> None:
    images = images_of(*size)
    masks = BlockMask(block, ratio).draw(images, torch.Generator().manual_seed(0))
    assert masks.shape == (3, 1, *size) and masks.dtype == torch.bool
    padded = F.pad(masks.float(), [n for length in reversed(size) for n in (0, -length % block)], value=-1.0)
    dims = len(size)
    blocks = padded.reshape(3, *(n for length in padded.shape[2:] for n in (length // block, block)))
    blocks = blocks.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2)).flatten(dims + 1).flatten(1, dims)
    inside = [[set(one.tolist()) - {-1.0} for one in of_patch] for of_patch in blocks]
    assert all(len(values) == 1 for of_patch in inside for values in of_patch), "a block is hidden in part"
    hidden = [sum(values == {1.0} for values in of_patch) for of_patch in inside]
    assert hidden == [round(ratio * blocks.shape[1])] * 3
    assert not torch.equal(masks[0], masks[1])


def test_only_what_was_hidden_counts_and_is_not_shown() -> None:
    objective = MaskedReconstruction(BlockMask(4, 0.5))
    images = images_of(8, 8, 8)
    shown: list[Tensor] = []

    def guess(seen: Tensor) -> Tensor:
        shown.append(seen)
        return torch.where(seen == 0, images + 2.0, torch.inf).nan_to_num(posinf=1e6)

    torch.manual_seed(0)
    assert objective(guess, {"image": images}, NOW).item() == pytest.approx(4.0)
    hidden = shown[0] == 0
    assert hidden.float().mean() == pytest.approx(0.5)
    assert torch.equal(shown[0][~hidden], images[~hidden])
    assert (hidden[:, 0] == hidden[:, 1]).all(), "a channel tells what another hides"


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_something_is_always_hidden_and_something_seen(ratio: float) -> None:
    masks = BlockMask(4, ratio).draw(torch.zeros(5, 1, 8, 4, 4))
    assert masks.float().mean((1, 2, 3, 4)).tolist() == [0.5] * 5


def test_masks_repeat_with_their_generator_and_resume_needs_the_same_settings() -> None:
    mask = BlockMask(2, 0.5)
    objective = MaskedReconstruction(mask)
    images = torch.zeros(2, 1, 8, 8, 8)
    first, again = (mask.draw(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert objective.identity() == {"loss": "masked_mse", "mask": "blocks", "block": 2, "ratio": 0.5}


def test_settings_that_hide_nothing_or_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="masked share"):
        BlockMask(4, 1.0)
    with pytest.raises(ValueError, match="side of a masked block"):
        BlockMask(0, 0.5)
    with pytest.raises(ConfigError, match=r"blocks of 8 voxels for patches of 8 x 6 x 4.*pretraining.block=2"):
        BlockMask(8, 0.5).draw(torch.zeros(1, 1, 8, 6, 4))
    with pytest.raises(ConfigError, match=r"blocks of 64 pixels for images of 48 x 64.*pretraining.block=16"):
        BlockMask(64, 0.5).draw(torch.zeros(1, 3, 48, 64))
