from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medformer.config import AbideConfig, AugmentConfig, PolypConfig, VolumeConfig
from medformer.config.shared import ImagePretrainingConfig, PretrainingConfig, TrainingConfig
from medformer.data.cases import Case
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.transforms import Augmentation
from medformer.data.network_inputs import ItemImages
from medformer.errors import CheckpointError
from medformer.files import read_json
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.models.backbone.blocks import Architecture
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.networks.meta_unet import MetaUNet
from medformer.training.pretraining.masks import BlockMask
from medformer.training.pretraining.pretrain import (
    ReconstructionLoss,
    VisibleMean,
    pretrain,
    pretraining_settings,
    read_encoder,
)

SIZE = (32, 48)


def frame_cases(folder: Path, count: int) -> list[Case]:
    """Frames of smooth color gradients, without masks."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] / 48
    cases = []
    for number in range(count):
        phases = np.random.default_rng(number).uniform(0, 6, 3)
        image = np.stack([np.sin(4 * rows + 3 * columns + phase) for phase in phases], -1)
        path = folder / f"frame{number}.png"
        Image.fromarray((127 * image + 128).astype(np.uint8)).save(path)
        cases.append(Case(path.stem, path, None, path.stem, "", "", ""))
    return cases


def network() -> nn.Module:
    torch.manual_seed(0)
    backbone = MetaFormer(2, 3, Architecture(("identity",), depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)))
    return MetaUNet(backbone)


def run(folder: Path, cases: list[Case], epochs: int = 12) -> tuple[MaskedAutoencoder, dict[str, float]]:
    autoencoder = masked_autoencoder(network())
    data = SegmentationDataset(cases[:-4], SIZE, augmentation=Augmentation(AugmentConfig()), seed=1, masks=False)
    held_out = SegmentationDataset(cases[-4:], SIZE, augmentation=None, seed=1, masks=False)
    judge = ReconstructionLoss(
        BlockMask(8, 0.6), ItemImages(held_out), VisibleMean(), unit="frames", batch_size=3, seed=2
    )
    settings = TrainingConfig(epochs=epochs, batch_size=4, lr=0.01, accelerator="cpu", ema=0.0)
    quality = pretrain(
        autoencoder,
        data,
        judge,
        settings,
        out=folder / "pretraining",
        record=folder / "pretraining.json",
        seed=3,
        metadata={"purpose": "pretraining", "size": SIZE},
    )
    return autoencoder, quality


def test_an_encoder_of_frames_learns_to_reconstruct_hidden_blocks(tmp_path: Path) -> None:
    cases = frame_cases(tmp_path, 16)
    autoencoder, quality = run(tmp_path, cases)
    assert read_json(tmp_path / "pretraining.json") == quality
    assert set(quality) == {"masked_mse", "mean_visible_mse", "hidden", "frames"} and quality["frames"] == 4
    assert quality["hidden"] == 4 * 3 * 14 * 64, "14 of 24 blocks of 8 x 8 in three channels"
    assert quality["masked_mse"] < 0.8 * quality["mean_visible_mse"]

    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    encoder = read_encoder(tmp_path / "pretraining", masked_autoencoder(fresh), {"size": SIZE})
    fresh.get_submodule("backbone").load_state_dict(encoder)
    trained = autoencoder.encoder.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in encoder.items())
    changed = {name for name, value in fresh.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("backbone.") for name in changed)
    with pytest.raises(CheckpointError, match=r"size is \[32, 48\], expected \[32, 32\]"):
        read_encoder(tmp_path / "pretraining", masked_autoencoder(network()), {"size": (32, 32)})


def test_the_same_seed_gives_the_same_encoder(tmp_path: Path) -> None:
    cases = frame_cases(tmp_path, 8)
    files = []
    for name in ("a", "b"):
        run(tmp_path / name, cases, epochs=2)
        files.append((tmp_path / name / "pretraining" / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_pretraining_trains_as_the_network_does_except_for_its_own_section() -> None:
    training = TrainingConfig(epochs=7, minutes=3, batch_size=5, patience=2, clip=0.5, encoder_lr=0.1)
    of_images = pretraining_settings(training, ImagePretrainingConfig(epochs=4, lr=0.5))
    own = {"epochs": 4, "lr": 0.5, "minutes": None, "patience": 0, "encoder_lr": 1.0}
    assert of_images == training.model_copy(update=own)
    of_connectomes = pretraining_settings(training, AbideConfig().pretraining.model_copy(update={"patience": 9}))
    assert (of_connectomes.batch_size, of_connectomes.patience, of_connectomes.clip) == (32, 9, 0.5)


def test_every_task_has_the_same_keys_for_the_same_things() -> None:
    shared = set(PretrainingConfig.model_fields)
    sections = [config().pretraining for config in (PolypConfig, AbideConfig, VolumeConfig)]
    assert all(shared <= set(type(section).model_fields) for section in sections)
    assert [getattr(section, "block", None) for section in sections] == [32, None, 8]
