"""Connectome networks as one ONNX file: what each fold fitted is in the graph, or the export is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.config import ConnectomeModelConfig
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.connectome.pipeline import feature_pipeline
from medformer.errors import ConfigError
from medformer.inference.classification import Decision, PlattScaling
from medformer.inference.onnx.connectomes import ConnectomeGraph, FoldOfConnectomes, write_connectomes
from medformer.inference.onnx.export import runner
from medformer.tasks.abide.onnx import write_onnx

pytest.importorskip("onnxruntime")
torch.set_num_threads(1)

BLOCKS = (FeatureBlock("coarse", "correlation", 4), FeatureBlock("fine", "correlation", 6))
COLUMNS = Columns(BLOCKS, ("site", "age", "sex"), ("a", "b"))


class Linear(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.parts = nn.ModuleDict({block.atlas: nn.Linear(block.size, 2) for block in BLOCKS})

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([part(edges[atlas]) for atlas, part in self.parts.items()]).sum(0)


def rows(count: int = 30) -> np.ndarray:
    generator = np.random.default_rng(0)
    edges = generator.uniform(-1, 1, (count, COLUMNS.edges))
    covariates = [generator.integers(0, 2, count), generator.uniform(8, 40, count), generator.integers(0, 2, count)]
    return np.column_stack([edges, *covariates]).astype(np.float32)


def fold(seed: int, **settings: Any) -> FoldOfConnectomes:
    pipelines = {block.atlas: feature_pipeline(COLUMNS, block.atlas, **settings).fit(rows()) for block in BLOCKS}
    scaling = PlattScaling()
    scaling.slope_, scaling.intercept_ = 1.5, 0.2
    return FoldOfConnectomes(pipelines, [Linear(seed), Linear(seed + 1)], Decision(0.4, scaling if seed else None))


def expected(one: FoldOfConnectomes, raw: np.ndarray) -> np.ndarray:
    inputs = {atlas: torch.from_numpy(steps.transform(raw)).float() for atlas, steps in one.pipelines.items()}
    with torch.no_grad():
        scores = [torch.softmax(model(inputs).double(), 1)[:, 1].numpy() for model in one.models]
    return one.decision.probabilities(np.mean(scores, axis=0))


def raw_features() -> np.ndarray:
    raw = rows(29)
    raw[3, COLUMNS.slice("coarse")] = 0.25  # a subject whose connections are all equal
    raw[4, :2] = 1.0, -1.0
    return raw


def test_the_graph_computes_the_mean_calibrated_probability_of_the_folds() -> None:
    # Every scale, with and without Fisher's z.
    scales = ({"scale": "deviation"}, {"scale": "feature", "fisher": False}, {"scale": "subject"}, {"scale": "none"})
    folds = [fold(seed, **settings) for seed, settings in enumerate(scales)]
    raw = raw_features()
    with torch.no_grad():
        found = ConnectomeGraph(folds)(*(torch.from_numpy(raw[:, COLUMNS.slice(atlas)]) for atlas in COLUMNS.atlases))
    np.testing.assert_allclose(found.numpy(), np.mean([expected(one, raw) for one in folds], axis=0), atol=1e-6)


@pytest.mark.slow
def test_connections_as_measured_become_the_mean_calibrated_probability_of_the_folds(tmp_path: Path) -> None:
    # With and without Fisher's z; the scale `subject` is the first part of `deviation`.
    folds = [fold(0, scale="deviation"), fold(1, scale="feature", fisher=False)]
    raw = raw_features()
    connections = {atlas: raw[:, COLUMNS.slice(atlas)] for atlas in COLUMNS.atlases}
    want = np.mean([expected(one, raw) for one in folds], axis=0)
    path = tmp_path / "net.onnx"
    record = write_connectomes(path, folds, BLOCKS, connections, want, threshold=0.5)
    assert record["parity"]["max_difference"] < 1e-5 and record["parity"]["other_decisions"] == 0
    assert [row["subjects"] for row in record["parity"]["compared"]] == [1, 3, 20]
    assert [port["shape"] for port in record["inputs"]] == [["batch", 6], ["batch", 15]]
    assert record["atlases"][1] == {"input": "connections_2", "atlas": "fine", "measure": "correlation", "regions": 6}
    run = runner(path, "probability", threads=1)
    for part in (slice(0, 1), slice(3, 10)):
        found = run({"connections_1": connections["coarse"][part], "connections_2": connections["fine"][part]})
        np.testing.assert_allclose(found, want[part], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"harmonize": "combat"}, "features.harmonize=combat"), ({"confounds": ("age",)}, "features.confounds")],
)
def test_what_needs_more_than_connections_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write_connectomes(tmp_path / "net.onnx", [fold(1, **settings)], BLOCKS, {}, np.empty(0), threshold=0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("metaformer_as_published", "across_subjects"),
        ("metaformer_paper", "across_subjects"),
        ("roi_metaformer", "noise_at_test"),
    ],
)
def test_a_defect_that_no_file_can_have_is_refused(tmp_path: Path, name: str, defect: str) -> None:
    config = SimpleNamespace(model=ConnectomeModelConfig(name=name, defects=(defect,)))
    predictor: Any = SimpleNamespace(members=[(SimpleNamespace(config=config), None)])
    with pytest.raises(ConfigError, match=f"ONNX: its defect {defect}"):
        write_onnx(predictor, tmp_path, None, [])
