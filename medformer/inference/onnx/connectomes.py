"""Networks on connectomes as one file: connections as they are measured in, calibrated probability out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from torch import Tensor, nn

from medformer.connectome.columns import BlockTransformer, FeatureBlock, SelectAtlas, WithoutCovariates
from medformer.connectome.pipeline import LIMIT, Deviation, FeatureScale, FisherZ, SubjectScale
from medformer.errors import ConfigError
from medformer.inference.classification import Decision
from medformer.inference.onnx.export import Difference, Port, Run, write_graph
from medformer.inference.onnx.graphs import MeanScore

NAME = "abide.onnx"
TOLERANCE = 1e-4
"""Of probabilities."""
BATCHES = (1, 3, 20)
"""Sizes of the batches that are compared."""


class Steps(nn.Module):
    """The steps of one atlas that depend on its connections alone, in double precision, (B, d) to float32 (B, d).

    Args:
        pipeline: Fitted.

    Raises:
        ConfigError: A step needs more than the connections of a subject, or no runtime can compute it.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            _module(step) for _, step in pipeline.steps if not isinstance(step, (SelectAtlas, WithoutCovariates))
        )

    def forward(self, block: Tensor) -> Tensor:
        block = block.double()
        for step in self.steps:
            block = step(block)
        return block.float()


class _Fisher(nn.Module):
    def forward(self, block: Tensor) -> Tensor:
        clipped = block.clamp(-LIMIT, LIMIT)
        return 0.5 * torch.log((1.0 + clipped) / (1.0 - clipped))


class _SubjectScale(nn.Module):
    def forward(self, block: Tensor) -> Tensor:
        centered = block - block.mean(1, keepdim=True)
        deviation = (centered - centered.mean(1, keepdim=True)).square().mean(1, keepdim=True).sqrt()
        flat = deviation <= 1e-12 * block.abs().amax(1, keepdim=True)
        return torch.where(flat, 0.0, centered) / torch.where(flat, 1.0, deviation)


class _Affine(nn.Module):
    """Takes off a mean and divides, both (d,)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Any, scale: Any) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(np.asarray(mean, np.float64)))
        self.register_buffer("scale", torch.as_tensor(np.asarray(scale, np.float64)))

    def forward(self, block: Tensor) -> Tensor:
        return (block - self.mean) / self.scale


_WHY_NOT = {
    "ComBat": "features.harmonize=combat needs the site, age and sex of a subject beside the connections",
    "ConfoundRegression": "features.confounds needs covariates of a subject beside the connections",
    "TangentSpace": "data.measure=tangent takes the logarithm of a matrix, which ONNX does not have",
}


def _module(step: BlockTransformer) -> nn.Module:
    if isinstance(step, FisherZ):
        return _Fisher()
    if isinstance(step, Deviation):
        return nn.Sequential(_SubjectScale(), _Affine(step.mean_, step.scale_))
    if isinstance(step, SubjectScale):
        return _SubjectScale()
    if isinstance(step, FeatureScale):
        return _Affine(step.scaler_.mean_, step.scaler_.scale_)
    name = type(step).__name__
    raise ConfigError(
        f"This run cannot be exported to ONNX: {_WHY_NOT.get(name, f'its step {name} is not known there')}. Export it "
        "without --onnx, or train without this setting."
    )


@dataclass(frozen=True)
class FoldOfConnectomes:
    """What one fold computes.

    Attributes:
        pipelines: Fitted, by atlas.
        models: Its networks, whose probabilities are averaged.
        decision: Its calibration and threshold.
    """

    pipelines: Mapping[str, Pipeline]
    models: Sequence[nn.Module]
    decision: Decision


class _Fold(nn.Module):
    def __init__(self, fold: FoldOfConnectomes) -> None:
        super().__init__()
        self.atlases = tuple(fold.pipelines)
        self.steps = nn.ModuleList(Steps(fold.pipelines[atlas]) for atlas in self.atlases)
        self.score = MeanScore(fold.models, fold.decision)

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        inputs = {atlas: step(block) for atlas, step, block in zip(self.atlases, self.steps, blocks, strict=True)}
        return self.score(inputs)


class ConnectomeGraph(nn.Module):
    """Connections of each atlas, float32 (B, d), to the probability of class 1, float32 (B,), the mean over folds.

    Args:
        folds: All with the same atlases, in the same order.
    """

    def __init__(self, folds: Sequence[FoldOfConnectomes]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(_Fold(fold) for fold in folds)

    def forward(self, *blocks: Tensor) -> Tensor:
        return torch.stack([fold(blocks) for fold in self.folds]).mean(0).float()


def write_connectomes(
    path: Path,
    folds: Sequence[FoldOfConnectomes],
    blocks: Sequence[FeatureBlock],
    connections: Mapping[str, NDArray[np.float32]],
    expected: NDArray[np.float64],
    *,
    threshold: float,
    real: bool = True,
) -> dict[str, Any]:
    """Write the folds as one graph (see `write_graph`).

    Args:
        path: A `.onnx` file.
        folds: What each computes.
        blocks: What the connections of each atlas are; one input for each.
        connections: Of the subjects that are compared, by atlas, (n, d).
        expected: Our own probability of each, (n,).
        threshold: Noted for the reader.
        real: Whether these are subjects of a data set.
    """
    inputs = [
        Port(
            f"connections_{number}" if len(blocks) > 1 else "connections",
            torch.zeros(2, block.size),
            {0: "batch"},
            f"{block.measure} of the {block.regions} regions of {block.atlas}: upper triangle row by row, "
            f"{'with' if block.diagonal else 'without'} the diagonal",
        )
        for number, block in enumerate(blocks, start=1)
    ]
    names = [port.name for port in inputs]

    def check(run: Run) -> dict[str, Any]:
        difference, first, wrong = Difference(TOLERANCE), 0, 0
        compared = []
        while first < len(expected):
            for size in BATCHES:
                rows = slice(first, min(first + size, len(expected)))
                if rows.start >= rows.stop:
                    break
                found = run({name: connections[block.atlas][rows] for name, block in zip(names, blocks, strict=True)})
                largest = difference.add(found, expected[rows])
                wrong += int(np.count_nonzero((found >= threshold) != (expected[rows] >= threshold)))
                compared.append({"subjects": rows.stop - rows.start, "max_difference": largest})
                first = rows.stop
        return {
            "tolerance": TOLERANCE,
            "max_difference": difference.most,
            "other_decisions": wrong,
            "subjects": len(expected),
            "compared": compared[: len(BATCHES)],
            "cases": "real" if real else "synthetic",
        }

    about = {
        "task": "abide",
        "networks": sum(len(fold.models) for fold in folds),
        "atlases": [
            {"input": name, "atlas": block.atlas, "measure": block.measure, "regions": block.regions}
            for name, block in zip(names, blocks, strict=True)
        ],
        "calibrated": all(fold.decision.scaling is not None for fold in folds),
        "threshold": threshold,
    }
    output = Port("probability", torch.zeros(2), {0: "batch"}, "of class 1")
    return write_graph(path, ConnectomeGraph(folds), inputs, output, check, about)
