from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from no_float64 import WithoutFloat64
from torch import Tensor, nn

from medformer.errors import DataError
from medformer.inference.attribution.integrated_gradients import TOLERANCE, _mean_gradient, integrated_gradients

SIZES = {"aal": 10, "cc200": 15}


class Net(nn.Module):
    """Two encoders whose logits are averaged, with dropout between."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                atlas: nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, 2))
                for atlas, size in SIZES.items()
            }
        )

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([encoder(edges[atlas]) for atlas, encoder in self.encoders.items()]).mean(0)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(SIZES.values()), 2)

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return self.layer(torch.cat([edges[atlas] for atlas in SIZES], dim=1))


@pytest.fixture
def edges() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {atlas: draw.normal(size=(7, size)).astype(np.float32) for atlas, size in SIZES.items()}


@pytest.fixture
def reference() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {atlas: draw.normal(0, 0.2, size).astype(np.float32) for atlas, size in SIZES.items()}


def test_gradients_are_added_up_where_float64_is() -> None:
    one, other = ({atlas: torch.randn(3, size) for atlas, size in SIZES.items()} for _ in range(2))
    model, line = Linear(), [(0.25, 0.5), (0.75, 0.5)]
    expected = _mean_gradient(model, one, other, line)
    on_device = [{atlas: block.as_subclass(WithoutFloat64) for atlas, block in side.items()} for side in (one, other)]
    for atlas, slope in _mean_gradient(model, *on_device, line).items():
        assert torch.equal(slope.as_subclass(torch.Tensor), expected[atlas])


def test_linear_model_gets_weight_times_difference(
    edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> None:
    torch.manual_seed(0)
    model = Linear()
    found = integrated_gradients(model, edges, reference=reference, steps=1)
    weight = (model.layer.weight[1] - model.layer.weight[0]).detach().numpy()
    parts = dict(zip(SIZES, np.split(weight, [SIZES["aal"]]), strict=True))
    for atlas, part in parts.items():
        np.testing.assert_allclose(found.values[atlas], part * (edges[atlas] - reference[atlas]), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.slopes[atlas], np.broadcast_to(part, edges[atlas].shape), rtol=1e-4)


def test_values_add_up_to_the_explained_log_odds(
    edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> None:
    torch.manual_seed(0)
    model = Net()
    found = integrated_gradients(model, edges, reference=reference, steps=32)
    total = sum(block.sum(axis=1) for block in found.values.values())
    np.testing.assert_allclose(total, found.output - found.reference_output, atol=1e-5)
    assert found.gap < 1e-4
    model.eval()
    logits = model({atlas: torch.from_numpy(block) for atlas, block in edges.items()}).detach().numpy()
    np.testing.assert_allclose(found.output, logits[:, 1] - logits[:, 0], rtol=1e-5)


def test_gap_tells_too_few_steps(edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    class Steep(Linear):
        def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
            return torch.tanh(40 * super().forward(edges))

    torch.manual_seed(0)
    coarse = integrated_gradients(Steep(), edges, reference=reference, steps=2)
    assert coarse.gap > TOLERANCE


def test_batch_size_changes_nothing(edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    model = Net()
    whole = integrated_gradients(model, edges, reference=reference)
    single = integrated_gradients(model, edges, reference=reference, batch_size=2)
    for atlas in SIZES:
        np.testing.assert_allclose(whole.values[atlas], single.values[atlas], atol=1e-6)


def test_model_is_left_as_it_was(edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    model = Net().train()
    model.encoders["aal"].eval()
    next(model.parameters()).requires_grad_(False)
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    integrated_gradients(model, edges, reference=reference)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_references_that_do_not_fit_are_refused(edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    model = Net()
    with pytest.raises(DataError, match=r"the reference has aal\. Expected the same"):
        integrated_gradients(model, edges, reference={"aal": reference["aal"]})
    with pytest.raises(DataError, match=r"cc200: a subject has edges of shape \(15,\), the reference has \(14,\)"):
        integrated_gradients(model, edges, reference={**reference, "cc200": reference["cc200"][1:]})
    with pytest.raises(DataError, match="expected the same number, at least one"):
        integrated_gradients(model, {**edges, "aal": edges["aal"][1:]}, reference=reference)
    with pytest.raises(DataError, match="not finite"):
        integrated_gradients(model, {**edges, "aal": edges["aal"] * np.nan}, reference=reference)


def test_subjects_are_explained_alone(edges: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    model = Net()
    before = integrated_gradients(model, edges, reference=reference)
    changed = {atlas: np.concatenate([block[:1], 100 - block[1:]]) for atlas, block in edges.items()}
    after = integrated_gradients(model, changed, reference=reference)
    for atlas in SIZES:
        np.testing.assert_array_equal(before.values[atlas][0], after.values[atlas][0])
