"""How much of a trained network is added to the simple model beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.inference.gate import learn_gate
from medformer.models.wide import WidePath
from medformer.tensor_file import read_tensors, write_tensors
from medformer.training.job import WEIGHTS

RECORD = "wide.json"
"""In the folder of a fold: which simple model stands beside each network, and how much of the network is added."""


def set_gate(
    wide: WidePath, simple: NDArray[np.float64], deep: NDArray[np.float64], labels: NDArray[np.int64], folder: Path
) -> dict[str, Any]:
    """Choose the gate on inner validation cases, and write it into the network's folder.

    Args:
        wide: Its gate is set.
        simple: Log odds by the simple model, (n,).
        deep: By the network alone, (n,).
        labels: 0 or 1, (n,).
        folder: Holds the weights that the training left.

    Returns:
        What the record says of it.
    """
    gate = learn_gate(simple, deep, labels)
    with torch.no_grad():
        wide.gate.fill_(gate.value)
    tensors, metadata = read_tensors(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, tensors | {"wide.gate": wide.gate.cpu()}, metadata)
    return gate.to_json()


def log_odds(logits: list[torch.Tensor]) -> NDArray[np.float64]:
    """Of batches of logits of two classes, (n,)."""
    if not logits:
        return np.empty(0)
    found = torch.cat([part.double().cpu() for part in logits])
    return np.asarray((found[:, 1] - found[:, 0]).numpy(), np.float64)
