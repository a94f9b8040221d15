"""Where the encoder of a fold comes from: a pretrained one, masked pretraining in the fold, or neither."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medformer.config import PretrainingConfig
from medformer.models.autoencoder import MaskedAutoencoder

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
