from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.inference.attribution.checks import leaders, randomization_check, spearman, stability

EDGES = 60


class Attending(nn.Module):
    """Edges as tokens of an attention layer: parameters on modules, on their children and on the top."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.linspace(-1, 1, 6))
        self.embed = nn.Linear(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        tokens = self.embed(edges["aal"].reshape(-1, 6, 10)) + self.position[:, None]
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))


class Planted(nn.Module):
    """Learned to look at the first edges only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(EDGES, 16)
        self.head = nn.Linear(16, 2)
        with torch.no_grad():
            self.layer.weight *= torch.linspace(8, 0.1, EDGES)

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return self.head(torch.tanh(self.layer(edges["aal"])))


class OneHalf(nn.Module):
    """Never looks at the other half of the edges."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(EDGES // 2, 2)

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return self.head(edges["aal"][:, : EDGES // 2])


class Filter(nn.Module):
    """What edge detectors do: the explanation has nothing to do with what was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.linspace(1, 3, EDGES))
        self.head = nn.Linear(1, 2)

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return self.head((edges["aal"] * self.fixed).sum(1, keepdim=True))


@pytest.fixture
def edges() -> dict[str, np.ndarray]:
    return {"aal": np.random.default_rng(0).normal(size=(12, EDGES)).astype(np.float32)}


REFERENCE = {"aal": np.zeros(EDGES, np.float32)}


def test_stability_of_equal_and_of_random_rankings() -> None:
    draw = np.random.default_rng(0)
    vector = draw.normal(size=500)
    same = stability(np.stack([vector, 3 * vector, vector**3]), 50)
    assert (same.folds, same.spearman, same.jaccard) == (3, pytest.approx(1), 1)
    other = stability(draw.normal(size=(12, 500)), 50)
    assert other.spearman is not None and abs(other.spearman) < 0.05
    assert other.jaccard == pytest.approx(other.chance, abs=0.015)
    assert other.chance == pytest.approx(0.0526, abs=1e-4)


def test_one_fold_has_no_stability() -> None:
    found = stability(np.ones((1, 10)), 3)
    assert found.spearman is None and found.jaccard is None


def test_leaders_break_ties_by_position() -> None:
    assert leaders(np.array([1.0, 3.0, 3.0, 0.0, 1.0]), 4).tolist() == [1, 2, 0, 4]


def test_spearman_sees_order_only() -> None:
    values = np.array([0.1, 5.0, -2.0, 3.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, np.ones(4)) == 0


def test_map_of_learned_weights_falls(edges: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    found = randomization_check(Planted(), edges, reference=REFERENCE, seed=0)
    assert [stage.name for stage in found.stages] == ["head", "layer"]
    assert found.stages[0].maps > found.stages[-1].maps + 0.2
    assert found.stages[-1].maps < 0.3 and found.passed
    assert found.stages[-1].share == 1
    assert found.inputs > 0.2
    assert found.subjects == 12


def test_map_that_ignores_the_weights_is_caught(edges: dict[str, np.ndarray]) -> None:
    found = randomization_check(Filter(), edges, reference=REFERENCE, seed=0)
    assert found.stages[-1].maps > 0.95 and not found.passed


def test_edges_that_no_network_looks_at_do_not_make_maps_alike(edges: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    found = randomization_check(OneHalf().eval(), edges, reference={"aal": np.zeros(EDGES, np.float32)}, seed=0)
    assert found.passed
    assert abs(found.stages[-1].maps) < 0.5


def test_model_and_generator_are_left_alone(edges: dict[str, np.ndarray]) -> None:
    model = Attending()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    first = randomization_check(model, edges, reference=REFERENCE, seed=3, stages=20)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert first == randomization_check(model, edges, reference=REFERENCE, seed=3, stages=20)
    assert first != randomization_check(model, edges, reference=REFERENCE, seed=4, stages=20)


def test_every_parameter_is_reached_from_the_output(edges: dict[str, np.ndarray]) -> None:
    found = randomization_check(Attending(), edges, reference=REFERENCE, seed=0, stages=20)
    assert [stage.name for stage in found.stages] == ["head", "attention.out_proj", "attention", "embed", "(top)"]
    shares = [stage.share for stage in found.stages]
    assert shares == sorted(shares) and shares[0] < 0.1 and shares[-1] == 1
    assert len(randomization_check(Attending(), edges, reference=REFERENCE, seed=0, stages=2).stages) == 2
