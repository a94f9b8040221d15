"""The networks of a volume run, from its config and the plan of a fold."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medformer.config import VolumeConfig
from medformer.config.shared import TrainingConfig
from medformer.crossval.plan import Fold
from medformer.data.volumes.plan.patch_size import fitted
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.files import digest
from medformer.models.autoencoder import masked_autoencoder
from medformer.models.networks.build import build_network, load_encoder
from medformer.models.networks.grid import Grid
from medformer.training.losses.volume_losses import build_volume_loss
from medformer.training.saving.checkpoint import load_model


def new_network(config: VolumeConfig, plan: VolumePlan, seed: int, *, pretrained: bool = True) -> nn.Module:
    """Build the network of a config with first weights that a seed decides, and with `model.weights` if pretrained.

    Raises:
        ConfigError: The config names no network that can be built, or weights for one without our encoder.
        CheckpointError: `model.weights` cannot be read or does not fit.
    """
    outputs = 2 if config.target == "classification" else plan.classes
    grid = Grid(len(plan.intensity), outputs, plan.patch, plan.spacing, plan.strides, plan.kernel_sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(config.model, grid, target=config.target)
    if pretrained:
        load_encoder(network, config.model)
    return network


def read_network(config: VolumeConfig, plan: VolumePlan, folder: Path) -> nn.Module:
    """Read the network of a fold that is done.

    Raises:
        CheckpointError: Its weights are missing, damaged or of another network.
    """
    network = new_network(config, plan, 0, pretrained=False)
    load_model(folder / "model.safetensors", network)
    return network.eval()


def planned_training(config: VolumeConfig, plan: VolumePlan) -> TrainingConfig:
    """How training trains, with the batch that was planned."""
    return config.training.model_copy(update={"batch_size": plan.batch_size})


def metadata(config: VolumeConfig, plan: VolumePlan, fold: Fold, purpose: str) -> dict[str, object]:
    """What is kept beside the weights of a fold."""
    return {
        "task": config.task,
        "target": config.target,
        "purpose": purpose,
        "model": config.model.model_dump(mode="json"),
        "plan": plan.to_json(),
        "augment": config.augment.model_dump(mode="json"),
        "pretraining": config.pretraining.model_dump(mode="json"),
        "fold": fold.index,
        "cases_sha256": digest([fold.train, fold.validation]),
    }


def check_network(config: VolumeConfig) -> None:
    """Build a small network of a config, so that a wrong name or file ends the run before volumes are read.

    Raises:
        ConfigError: An unknown name, or settings that do not go together.
        CheckpointError: `model.weights` cannot be read or does not fit.
    """
    build_volume_loss(config.loss.name)
    spacing = config.plan.spacing or (1.0, 1.0, 1.0)
    patch, layout = fitted(config.plan.patch or (32, 32, 32), spacing)
    plan = VolumePlan(spacing, (Intensity(),), ((1, "any"),), patch, *layout, batch_size=1)
    network = new_network(config, plan, 0)
    if config.pretraining.enabled or config.pretraining.weights:
        masked_autoencoder(network)
