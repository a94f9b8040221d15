"""Connectomes of two small atlases whose classes differ, and a network for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medformer.config.shared import TrainingConfig
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.inference.classification import ValidationLoss
from medformer.training.fit import FitResult, fit
from medformer.training.losses.objectives import ClassificationObjective, Objective

REGIONS = {"small": 6, "large": 9}
TRAIN, HELD_OUT = 40, 20


def edges(seed: int = 0) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Connections that follow one hidden number, and labels that shift some of them."""
    generator = np.random.default_rng(seed)
    count = TRAIN + HELD_OUT
    labels = np.arange(count) % 2
    hidden = generator.normal(size=(count, 1))
    found = {}
    for atlas, regions in REGIONS.items():
        size = regions * (regions - 1) // 2
        block = 0.5 * generator.normal(size=(count, size)) + hidden * np.sign(generator.normal(size=size))
        block[:, :4] += 1.5 * labels[:, None]
        found[atlas] = block.astype(np.float32)
    return found, labels


def parts() -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """The training part, the held-out part, and the labels of both."""
    found, labels = edges()
    train = {atlas: block[:TRAIN] for atlas, block in found.items()}
    return train, {atlas: block[TRAIN:] for atlas, block in found.items()}, labels


class Classifier(nn.Module):
    """Logits (B, 2), with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({atlas: nn.Linear(n * (n - 1) // 2, 2) for atlas, n in REGIONS.items()})
        self.dropout = nn.Dropout(0.2)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([head(self.dropout(given[atlas])) for atlas, head in self.heads.items()]).mean(0)


class Reconstructor(nn.Module):
    """Each atlas from all of them, through a few numbers."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        sizes = {atlas: n * (n - 1) // 2 for atlas, n in REGIONS.items()}
        self.down = nn.Linear(sum(sizes.values()), width)
        self.up = nn.ModuleDict({atlas: nn.Linear(width, size) for atlas, size in sizes.items()})

    def forward(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        code = self.down(torch.cat([given[atlas] for atlas in self.up], 1))
        return {atlas: head(code) for atlas, head in self.up.items()}


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def train(out: Path, model: nn.Module, objective: Objective | None = None, **change: Any) -> FitResult:
    """Train on the training part with small settings, which keywords replace."""
    train_part, held_out, labels = parts()
    ids = [f"subject{number}" for number in range(TRAIN)]
    settings = {"epochs": 4, "batch_size": 8, "lr": 0.02, "accelerator": "cpu", "ema": 0.0}
    data = ConnectomeData(train_part, labels[:TRAIN], ids, noise=0.1, seed=5)
    return fit(
        model,
        objective or ClassificationObjective(),
        change.pop("data", data),
        change.pop("validate") if "validate" in change else ValidationLoss(held_out, labels[TRAIN:], 7),
        TrainingConfig(**{**settings, **change.pop("config", {})}),
        out=out,
        seed=1,
        **change,
    )
