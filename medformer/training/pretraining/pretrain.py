"""Pretraining an encoder, and reading one that was pretrained before.

autoencoder = masked_autoencoder(network, seed)
quality = pretrain(autoencoder, data, judge, settings, out=..., record=..., seed=..., metadata=..., ...)
network's encoder, or autoencoder.encoder.state_dict(), is pretrained

network_encoder.load_state_dict(read_encoder(folder, autoencoder))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from medformer.config.shared import PretrainingConfig, TrainingConfig
from medformer.data.network_inputs import TrainingData
from medformer.files import write_json
from medformer.models.autoencoder import MaskedAutoencoder
from medformer.progress import Reporter
from medformer.training.fit import fit
from medformer.training.job import RunOptions
from medformer.training.pretraining.reconstruction import MaskedReconstruction, ReconstructionLoss
from medformer.training.saving.checkpoint import load_model


def pretrain(
    network: MaskedAutoencoder,
    data: TrainingData,
    judge: ReconstructionLoss,
    settings: TrainingConfig,
    *,
    record: Path,
    reporter: Reporter | None = None,
    **options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Train an encoder to reconstruct what is hidden from it, and write how well it does; labels are not read.

    Args:
        network: Around the encoder to train (`masked_autoencoder`); it is left with its best weights.
        data: Cases that pretraining may see; see `fit`.
        judge: Of the inner validation part; it also says what is hidden while training.
        settings: How to train (`pretraining_settings`).
        record: JSON file for the error on the inner validation part beside that of a guess (`pretraining.json`).
        reporter: Receives every step and epoch.
        **options: Where and how it runs: `out`, `seed`, `workers`, `resume`, `metadata` and `run` (`RunOptions`).

    Returns:
        What `record` says.

    Raises:
        MedformerError: As `fit`.
    """
    fit(network, MaskedReconstruction(judge.mask), data, judge, settings, reporter=reporter, **options)
    quality = judge.against_mean(network)
    write_json(record, quality)
    return quality


def pretraining_settings(training: TrainingConfig, pretraining: PretrainingConfig) -> TrainingConfig:
    """Return how pretraining trains: as the network does, except for what the section `pretraining` says.

    Args:
        training: The network's, with the batch size that is planned where it is.
        pretraining: Sections without a batch size take the network's; without a patience they never stop early.
    """
    own = {name: getattr(pretraining, name) for name in ("epochs", "lr", "batch_size") if hasattr(pretraining, name)}
    return training.model_copy(update={**own, "minutes": None, "patience": getattr(pretraining, "patience", 0)})


def read_encoder(
    folder: Path, network: MaskedAutoencoder, metadata: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Read the encoder that a pretraining left in a folder.

    Args:
        folder: `out` of the pretraining.
        network: An autoencoder like the pretrained one; the weights are loaded into it.
        metadata: Must be among those that the pretraining was given.

    Returns:
        The encoder's state.

    Raises:
        CheckpointError: There is none, it is of another network, or its metadata are not these.
    """
    load_model(folder / "model.safetensors", network, metadata)
    return dict(network.encoder.state_dict())
