from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medformer.connectome.triangle import to_triangle
from medformer.errors import DataError
from medformer.training.losses.objectives import Moment
from medformer.training.masking import MaskedReconstruction, masked_error

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
    masks = MaskedReconstruction(0.1, REGIONS).masks(given)
    for atlas, mask in masks.items():
        assert mask.dtype == torch.bool and mask.shape == given[atlas].shape
        assert mask.float().mean().item() == pytest.approx(0.1, abs=0.01)
        assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_hidden_region_loses_all_its_connections_and_no_others(diagonal: bool) -> None:
    given = edges(diagonal=diagonal)
    masks = MaskedReconstruction(0.2, REGIONS, kind="regions").masks(given)
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
    masks = MaskedReconstruction(0.01, REGIONS, kind="regions").masks(edges())
    assert masks["a"].sum(1).tolist() == [9] * 6


def test_masks_follow_torchs_generator_or_the_one_given() -> None:
    objective = MaskedReconstruction(0.3, REGIONS)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(objective.masks(edges())["a"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.manual_seed(1)
    own = [objective.masks(edges(), torch.Generator().manual_seed(7))["b"] for _ in range(2)]
    assert torch.equal(own[0], own[1]) and torch.equal(objective.masks(edges())["a"], drawn[0])


def test_only_what_is_hidden_counts_and_it_does_not_reach_the_network() -> None:
    objective, given = MaskedReconstruction(0.25, REGIONS), edges()
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
    objective, given = MaskedReconstruction(0.25, REGIONS, noise=0.5), edges(200)
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
        MaskedReconstruction(ratio, REGIONS)


def test_connections_that_fit_no_matrix_are_refused() -> None:
    broken: dict[str, Any] = {"a": torch.zeros(2, 44)}
    with pytest.raises(DataError, match=r"'a' has 44 connections per subject; expected 45, or 55"):
        MaskedReconstruction(0.1, REGIONS, kind="regions").masks(broken)
