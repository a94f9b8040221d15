"""The networks of a volume run, from its config and the plan of a fold."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medformer.config import TrainingConfig, VolumeConfig
from medformer.crossval.plan import Fold
from medformer.data.volumes.plan.topology import fitted
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.errors import ConfigError
from medformer.files import digest
from medformer.models.autoencoder import masked_autoencoder
from medformer.models.backbone.metaformer import MetaFormer
from medformer.models.backbone.weights import load_pretrained
from medformer.models.networks.volume_build import build_volume_model
from medformer.models.networks.volume_classifier import build_volume_classifier
from medformer.training.devices import check_devices
from medformer.training.losses.volume_losses import build_volume_loss
from medformer.training.saving.checkpoint import load_model
from medformer.training.trackers.build import build_tracker


def new_network(config: VolumeConfig, plan: VolumePlan, seed: int) -> nn.Module:
    """Build the network of a config with first weights that a seed decides.

    Raises:
        ConfigError: The config names no network that can be built, or weights for one without our encoder.
        CheckpointError: `model.weights` cannot be read or does not fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module
        if config.target == "classification":
            network = build_volume_classifier(
                config.model,
                in_channels=len(plan.intensity),
                patch=plan.patch,
                strides=plan.strides,
                kernel_sizes=plan.kernel_sizes,
            )
        else:
            network = build_volume_model(
                config.model,
                in_channels=len(plan.intensity),
                out_channels=plan.classes,
                patch=plan.patch,
                spacing=plan.spacing,
                strides=plan.strides,
                kernel_sizes=plan.kernel_sizes,
            )
    if config.model.weights:
        backbone = getattr(network, "backbone", None)
        if not isinstance(backbone, MetaFormer):
            raise ConfigError(
                f"model.weights fills a MetaFormer encoder, and {config.model.name} has none. Set model.weights=null."
            )
        load_pretrained(backbone, config.model.weights)
    return network


def read_network(config: VolumeConfig, plan: VolumePlan, folder: Path) -> nn.Module:
    """Read the network of a fold that is done.

    Raises:
        CheckpointError: Its weights are missing, damaged or of another network.
    """
    without = config.model_copy(update={"model": config.model.model_copy(update={"weights": None})})
    network = new_network(without if config.model.weights else config, plan, 0)
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


def check_settings(config: VolumeConfig) -> None:
    """Build what every fold will build, so that a wrong name or file ends the run before volumes are read.

    Raises:
        ConfigError: An unknown name, or settings that do not go together.
        CheckpointError: `model.weights` cannot be read or does not fit.
        ResourceError: The device is not there.
    """
    if config.execution.address is None:
        # A cluster's head may lack what its workers have; there the first fold tells.
        check_devices(config.training)
    build_tracker(config.training.tracker, Path(), Path())
    build_volume_loss(config.loss.name)
    spacing = config.plan.spacing or (1.0, 1.0, 1.0)
    patch, layout = fitted(config.plan.patch or (32, 32, 32), spacing)
    plan = VolumePlan(spacing, (Intensity(),), ((1, "any"),), patch, *layout, batch_size=1)
    network = new_network(config, plan, 0)
    if config.pretraining.enabled or config.pretraining.weights:
        masked_autoencoder(network)
