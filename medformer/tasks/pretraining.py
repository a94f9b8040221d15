"""Masked pretraining in a fold, and where the encoder of a fold comes from: pretraining, an earlier one, or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medformer.config import PolypConfig, VolumeConfig
from medformer.config.shared import PretrainingConfig, TrainingConfig
from medformer.crossval.run.contract import Context
from medformer.data.network_inputs import ItemImages, TrainingData
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.seeds import derive_seed
from medformer.training.pretraining.masks import BlockMask
from medformer.training.pretraining.pretrain import ReconstructionLoss, VisibleMean, pretrain, pretraining_settings

State = Mapping[str, Tensor]


def first_encoder(
    wanted: PretrainingConfig,
    folder: Path,
    read: Callable[[Path], State],
    pretrain: Callable[[Path, Path], tuple[MaskedAutoencoder, Any]],
) -> State | None:
    """Return the encoder's weights that training starts from; None to keep those that were drawn.

    Args:
        wanted: The section `pretraining` of the config.
        folder: Of the fold; `pretraining/` and `pretraining.json` are left there.
        read: Reads an encoder from the folder of an earlier pretraining.
        pretrain: Pretrains in a folder and leaves a JSON record.
    """
    if wanted.weights:
        return read(Path(wanted.weights))
    if not wanted.enabled:
        return None
    network, _ = pretrain(folder / "pretraining", folder / "pretraining.json")
    return {name: value.clone() for name, value in network.encoder.state_dict().items()}


def pretrain_on_images(
    config: PolypConfig | VolumeConfig,
    network: nn.Module,
    train: TrainingData,
    held_out: TrainingData,
    training: TrainingConfig,
    context: Context,
    *,
    unit: str,
    seed: int,
    out: Path,
    record: Path,
    metadata: Mapping[str, Any],
) -> tuple[MaskedAutoencoder, Mapping[str, Any]]:
    """Train the encoder of a network to reconstruct hidden blocks of images or volumes.

    Args:
        config: Of the run.
        network: With first weights.
        train: Images without labels.
        held_out: The same of the inner validation part.
        training: How networks of the run train, with the batch size that is planned.
        context: Of the fold.
        unit: What an item is, in the plural: the key of their number in the record.
        seed: Decides the decoder, what is hidden, and the order.
        out: Folder of this training.
        record: JSON file for the result.
        metadata: Kept beside the weights.

    Returns:
        The autoencoder around the network's encoder, and what the record says.
    """
    wanted = config.pretraining
    autoencoder = masked_autoencoder(network, derive_seed(seed, "decoder"))
    judge = ReconstructionLoss(
        BlockMask(wanted.block, wanted.ratio),
        ItemImages(held_out),
        VisibleMean(),
        unit=unit,
        batch_size=config.inference.batch_size,
        seed=derive_seed(seed, "validation masks"),
    )
    settings = pretraining_settings(training, wanted)
    options = context.options(metadata, out=out, seed=seed, workers=config.data.workers)
    return autoencoder, pretrain(autoencoder, train, judge, settings, record=record, **options)
