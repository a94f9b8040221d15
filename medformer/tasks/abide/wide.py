"""The linear model beside a network: fitted before the network is trained, and joined with it after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.connectome.ridge import fit_ridge
from medformer.data.network_inputs import batches
from medformer.inference.gate import learn_gate
from medformer.inference.single_thread import single_thread
from medformer.models.connectome.classifier import ConnectomeClassifier, WidePath
from medformer.tasks.abide.features import Inputs
from medformer.tensor_file import read_tensors, write_tensors
from medformer.training.job import WEIGHTS

RECORD = "wide.json"
"""In the folder of a fold: which linear model stands beside each network, and how much of the network is added."""


def fit_wide(wide: WidePath, train: Inputs, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Fit the linear model on training subjects, from the weights that it has: its penalty is on what changes.

    What changes are the weights of the atlas with the most connections: on the development half of ABIDE it alone did
    better than all atlases together in every way that was tried (docs/connectomes.md).

    Args:
        wide: Its weights are replaced, and its gate is opened.
        train: Connections by atlas, (n, d).
        labels: 0 or 1, (n,).

    Returns:
        The score of each training subject by a model that was fitted without it, (n,).
    """
    with single_thread(), torch.no_grad():
        known = _linear(wide, train)
        atlas = _finest(train)
        found = fit_ridge(train[atlas], 2.0 * labels - 1.0 - known)
        wide.weights(atlas).add_(torch.from_numpy(found.weights))
        wide.bias.add_(found.intercept)
        wide.gate.fill_(1.0)
    return known + found.left_out


def join(
    model: ConnectomeClassifier,
    wide: WidePath,
    validation: Inputs,
    labels: NDArray[np.int64],
    *,
    folder: Path,
    batch_size: int,
) -> dict[str, Any]:
    """Choose how much of a trained network is added to its linear model, and write it into the network's folder.

    Args:
        model: The network; its gate is set.
        wide: Its linear model.
        validation: Connections of the inner validation part by atlas, (n, d).
        labels: Theirs, 0 or 1, (n,).
        folder: Holds the weights that the training left.
        batch_size: Subjects per pass.

    Returns:
        What the record says of it.
    """
    model.eval()
    deep = []
    with torch.inference_mode():
        for part in batches(validation, model, batch_size):
            logits = model.classify(model.encoder(part)).double().cpu()
            deep.append((logits[:, 1] - logits[:, 0]).numpy())
    gate = learn_gate(_linear(wide, validation), np.concatenate(deep) if deep else np.empty(0), labels)
    with torch.no_grad():
        wide.gate.fill_(gate.value)
    tensors, metadata = read_tensors(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, tensors | {"wide.gate": wide.gate.cpu()}, metadata)
    return {"atlas": _finest(validation), **gate.to_json()}


def _finest(inputs: Inputs) -> str:
    return max(inputs, key=lambda atlas: inputs[atlas].shape[1])


def _linear(wide: WidePath, inputs: Inputs) -> NDArray[np.float64]:
    """The linear model's log odds, (n,)."""
    known = sum(
        np.asarray(inputs[atlas], np.float64) @ wide.weights(atlas).double().cpu().numpy() for atlas in wide.atlases
    )
    return np.asarray(known + float(wide.bias), np.float64)
