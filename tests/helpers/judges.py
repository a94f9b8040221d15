"""Validations of every kind on a few made-up cases, each with a network; also judged by two processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.prepare_case import PreparedCase
from medformer.imaging.geometry import Geometry
from medformer.inference.classification import ValidationLoss
from medformer.inference.frames.segment import ValidationDice
from medformer.inference.volumes.segmenter import ValidationVolumeDice
from medformer.models.judge import PartwiseScore
from medformer.training.pretraining.masks import BlockMask
from medformer.training.pretraining.pretrain import ReconstructionLoss, VisibleMean
from medformer.training.processes.validation import share_score

CASES = 7


class Frames:
    """Images whose mask is where they are bright, nearly."""

    def __len__(self) -> int:
        return CASES

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, 9, 9, generator=generator)
        noise = 0.5 * torch.randn(1, 9, 9, generator=generator)
        return {"image": image, "mask": (image.mean(0, keepdim=True) + noise > 0).float(), "id": str(index)}


class Sum(nn.Module):
    """The mean over channels, as many times as there are to be logits, each a little larger."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.linspace(0.7, 1.3, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) * self.factors.view(1, -1, *[1] * (x.dim() - 2))


class Odds(nn.Module):
    """Logits of connections."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, edges: Mapping[str, Tensor]) -> Tensor:
        odds = self.scale * edges["a"].mean(1)
        return torch.stack([torch.zeros_like(odds), odds], 1)


def judges() -> dict[str, tuple[PartwiseScore, nn.Module]]:
    """By name."""
    draw = np.random.default_rng(0)
    images = [draw.normal(size=(3, 9, 9)).astype(np.float32) for _ in range(CASES)]
    volumes = []
    for number in range(CASES):
        classes = draw.integers(0, 3, (6, 5, 4)).astype(np.uint8)
        image = draw.normal(size=(1, 6, 5, 4)).astype(np.float32)
        geometry = Geometry((6, 5, 4), np.eye(4))
        volumes.append(PreparedCase(str(number), image, classes, np.eye(4), geometry, np.zeros(1, np.float32)))
    plan = VolumePlan(
        (1.0, 1.0, 1.0), (Intensity(),), ((1, "one"), (2, "two")), (4, 4, 4), ((2, 2, 2),), ((3, 3, 3),), 2
    )
    edges = {"a": draw.normal(size=(CASES, 6)).astype(np.float32)}
    return {
        "frames": (ValidationDice(Frames(), 2), Sum(1)),  # type: ignore[arg-type]
        "volumes": (ValidationVolumeDice(volumes, plan), Sum(3)),
        "classes": (ValidationLoss(edges, np.arange(CASES) % 2, 2), Odds()),
        "pretraining": (
            ReconstructionLoss(BlockMask(3, 0.5), images, VisibleMean(), unit="frames", batch_size=2),
            Sum(3),
        ),
    }


def judge_together(rank: int, meeting: str) -> None:
    """One of two processes: each must come to what one process alone comes to, to the last digit."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=Path(meeting).as_uri(), rank=rank, world_size=2)
    with torch.no_grad():
        for name, (validate, model) in judges().items():
            found = share_score(validate, model, nullcontext)
            assert found == validate(model), (name, found, validate(model))
    torch.distributed.destroy_process_group()
