from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from no_float64 import WithoutFloat64
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from medformer.errors import DataError
from medformer.inference.classification import predict_scores

IDS = [f"s{number}" for number in range(11)]


class Network(nn.Module):
    """The log odds are a weighted sum of the connections; dropout shows in training mode."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.dropout = nn.Dropout(0.5)

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        odds = self.weight * self.dropout(edges["a"]).sum(1)
        return torch.stack([torch.zeros_like(odds), odds], 1)


@pytest.fixture
def edges() -> dict[str, NDArray[np.float32]]:
    return {"a": np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)}


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_score_is_the_mean_probability_of_class_1(edges: dict[str, NDArray[np.float32]], size: int) -> None:
    models = [Network(0.5).train(), Network(-2.0).train()]
    scores = predict_scores(models, edges, ids=IDS, batch_size=size)
    sums = edges["a"].sum(1).astype(np.float64)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, (expit(0.5 * sums) + expit(-2.0 * sums)) / 2, atol=1e-6)


def test_scores_of_a_sure_network_stay_apart() -> None:
    sure = {"a": np.linspace(3, 5, 11, dtype=np.float32)[:, None].repeat(6, 1)}
    scores = predict_scores([Network(1.0)], sure, ids=IDS)
    assert len(set(scores.tolist())) == 11 and scores.max() < 1.0, "float32 would make most of them 1"


def test_scores_are_computed_where_float64_is(edges: dict[str, NDArray[np.float32]]) -> None:
    class OnDevice(Network):
        def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
            return super().forward(edges).as_subclass(WithoutFloat64)

    found = predict_scores([OnDevice(0.5)], edges, ids=IDS)
    np.testing.assert_array_equal(found, predict_scores([Network(0.5)], edges, ids=IDS))


def test_what_is_not_finite_is_named(edges: dict[str, NDArray[np.float32]]) -> None:
    broken = {"a": edges["a"].copy()}
    broken["a"][4, 2] = np.inf
    with pytest.raises(DataError, match=r"Atlas 'a' has connections that are NaN or infinite in 1 \(s4\)"):
        predict_scores([Network(1.0)], broken, ids=IDS)
    with pytest.raises(DataError, match=r"output is not finite for 11 \(s0, s1"):
        predict_scores([Network(float("nan"))], edges, ids=IDS)


def test_unequal_rows_and_nothing_to_do_are_named(edges: dict[str, NDArray[np.float32]]) -> None:
    with pytest.raises(DataError, match="has 11 rows for 3 subjects"):
        predict_scores([Network(1.0)], edges, ids=IDS[:3])
    with pytest.raises(DataError, match="0 network"):
        predict_scores([], edges, ids=IDS)
    assert predict_scores([Network(1.0)], {"a": edges["a"][:0]}, ids=[]).shape == (0,)


class Images(nn.Module):
    """The log odds are a weighted sum of the voxels."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        odds = self.weight * images.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(odds), odds], 1)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_images_are_scored_as_connectomes_are(edges: dict[str, NDArray[np.float32]], size: int) -> None:
    images = edges["a"].reshape(11, 1, 3, 2, 1)
    expected = predict_scores([Network(0.5), Network(-2.0)], edges, ids=IDS)
    found = predict_scores([Images(0.5), Images(-2.0)], images, ids=IDS, batch_size=size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    broken = images.copy()
    broken[7] = np.nan
    with pytest.raises(DataError, match=r"Images hold NaN or infinity: 1 \(s7\)"):
        predict_scores([Images(0.5)], broken, ids=IDS, batch_size=size)
    with pytest.raises(DataError, match="11 images for 2 cases"):
        predict_scores([Images(0.5)], images, ids=IDS[:2])
    with pytest.raises(DataError, match=r"0 network\(s\); expected"):
        predict_scores([], images, ids=IDS)
