"""The linear model beside a network: fitted before the network is trained, and joined with it after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.data.network_inputs import batches
from medformer.inference.ridge import fit_ridge
from medformer.inference.single_thread import single_thread
from medformer.models.connectome.classifier import ConnectomeClassifier, LinearPath
from medformer.tasks.abide.features import Inputs
from medformer.tasks.wide import log_odds, set_gate


def fit_wide(wide: LinearPath, train: Inputs, labels: NDArray[np.int64]) -> NDArray[np.float64]:
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
    wide: LinearPath,
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
    with torch.inference_mode():
        deep = [model.classify(model.encoder(part)) for part in batches(validation, model, batch_size)]
    gate = set_gate(wide, _linear(wide, validation), log_odds(deep), labels, folder)
    return {"sees": _finest(validation), **gate}


def _finest(inputs: Inputs) -> str:
    return max(inputs, key=lambda atlas: inputs[atlas].shape[1])


def _linear(wide: LinearPath, inputs: Inputs) -> NDArray[np.float64]:
    """The linear model's log odds, (n,)."""
    known = sum(
        np.asarray(inputs[atlas], np.float64) @ wide.weights(atlas).double().cpu().numpy() for atlas in wide.atlases
    )
    return np.asarray(known + float(wide.bias), np.float64)
