from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.inference.classes.connectome_validation import ReconstructionLoss


@pytest.fixture
def edges() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    return {atlas: generator.normal(size=(7, 10)).astype(np.float32) for atlas in ("a", "b")}


class Constant(nn.Module):
    """Reconstructs one number everywhere, and remembers what it was shown."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.shown: list[Mapping[str, Tensor]] = []

    def forward(self, edges: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.shown.append(edges)
        return {atlas: self.value.expand_as(block) for atlas, block in edges.items()}


class HalfHidden:
    """Hides about half of the connections."""

    def masks(self, edges: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {atlas: torch.rand(block.shape, generator=generator) < 0.5 for atlas, block in edges.items()}


def test_the_same_connections_are_hidden_every_time(edges: dict[str, NDArray[np.float32]]) -> None:
    validation = ReconstructionLoss(HalfHidden(), edges, 3, seed=1)
    model = Constant(0.5)
    torch.manual_seed(0)
    first = validation(model)
    torch.rand(5)
    assert validation(model) == first
    assert len(model.shown) == 6
    hidden = np.concatenate([block["a"].numpy() == 0 for block in model.shown[:3]])
    other = np.concatenate([block["b"].numpy() == 0 for block in model.shown[:3]])
    expected = sum(((edges[atlas] - 0.5) ** 2)[mask].mean() for atlas, mask in (("a", hidden), ("b", other)))
    assert first == pytest.approx(expected, rel=1e-5)
    assert ReconstructionLoss(HalfHidden(), edges, 3, seed=2)(model) != first


def test_the_comparison_guesses_the_training_mean(edges: dict[str, NDArray[np.float32]]) -> None:
    generator = np.random.default_rng(1)
    train = {atlas: generator.normal(size=(20, 10)).astype(np.float32) for atlas in edges}
    model = Constant(0.0)
    found = ReconstructionLoss(HalfHidden(), edges, 100, seed=1).against_mean(model, train)
    errors = {}
    for atlas, block in edges.items():
        hidden = model.shown[0][atlas].numpy() == 0
        errors[atlas] = (block**2)[hidden], ((block - train[atlas].mean(0)) ** 2)[hidden]
        row = found["atlases"][atlas]
        assert row["hidden"] == hidden.sum()
        assert row["masked_mse"] == pytest.approx(errors[atlas][0].mean(), rel=1e-5)
        assert row["mean_edge_mse"] == pytest.approx(errors[atlas][1].mean(), rel=1e-5)
    pooled = np.concatenate([errors["a"][1], errors["b"][1]])
    assert found["mean_edge_mse"] == pytest.approx(pooled.mean(), rel=1e-5)
    assert found["subjects"] == 7 and found["hidden"] == len(pooled)
