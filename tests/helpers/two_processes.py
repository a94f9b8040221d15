"""Trains a fold of a tiny Meta-Polyp in one process and in two with half the batch.

Training from scratch is chaotic: at a common learning rate, a change of the first weights in the seventh digit moves
the validation Dice by more than a hundredth within some epochs, whatever the number of processes. In float32 the two
trainings therefore soon part over the order of their sums, so the long comparison is made in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_walls import small_walls

from medformer.config import AugmentConfig
from medformer.config.shared import TrainingConfig
from medformer.data.cases import Case
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.transforms import Augmentation
from medformer.data.manifest import read_manifest
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.inference.frames.segment import ValidationDice
from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.networks.meta_unet import PAPER, MetaUNet
from medformer.training.fit import FitResult, fit
from medformer.training.losses.objectives import SegmentationObjective
from medformer.training.losses.segmentation import build_loss

# Spawned processes read this file too, so it holds in all of them.
torch.set_num_threads(1)

SIZE = (32, 32)
EPOCHS = {"float32": 2, "float64": 3}
RATE = {"float32": 3e-4, "float64": 2e-3}


class AsType:
    """A data set in another floating-point type."""

    def __init__(self, data: SegmentationDataset, dtype: torch.dtype) -> None:
        self.data, self.dtype = data, dtype

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        item = self.data[index]
        return {"image": item["image"].to(self.dtype), "mask": item["mask"].to(self.dtype), "id": item["id"]}


def network(dtype: torch.dtype) -> MetaUNet:
    """A Meta-Polyp on a small CAFormer, with every kind of layer of the large ones but stochastic depth."""
    torch.manual_seed(0)
    encoder = MetaFormer(
        2,
        3,
        Architecture(
            ("separable_conv", "separable_conv", "attention", "attention"),
            depths=(1, 1, 1, 1),
            channels=(32, 32, 32, 32),
            kernel_sizes=(5, 5, None, None),
        ),
        init="fan_in",
    )
    return MetaUNet(encoder, 1, PAPER).to(dtype)


def train(cases: tuple[Case, ...], devices: int, precision: str, out: Path) -> FitResult:
    """Train with a global batch of 8."""
    dtype = getattr(torch, precision)
    train_data = SegmentationDataset(cases[8:], SIZE, augmentation=Augmentation(AugmentConfig()), seed=3)
    validation = SegmentationDataset(cases[:8], SIZE, augmentation=None, seed=3)
    return fit(
        network(dtype),
        SegmentationObjective(build_loss("structure"), (0.75, 1.0)),
        AsType(train_data, dtype),
        ValidationDice(AsType(validation, dtype), 8),  # type: ignore[arg-type]
        TrainingConfig(
            epochs=EPOCHS[precision],
            batch_size=8 // devices,
            lr=RATE[precision],
            ema=0.9,
            accelerator="cpu",
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            tracker="tensorboard",
        ),
        out=out,
        seed=3,
    )


def curves(folder: Path, precision: str) -> list[list[dict[str, Any]]]:
    """The learning curve of one process and that of two."""
    # 19 training cases: three of the last batch are left out, however many processes there are.
    with small_walls():
        manifest = read_manifest(write_synthetic_colonoscopy(folder / "data", groups=12, size=(48, 64))).cases[:27]
    results = [train(manifest, devices, precision, folder / str(devices)) for devices in (1, 2)]
    return [[dict(row) for row in result.history] for result in results]
