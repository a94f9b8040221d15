"""The kernel machine beside a network that classifies volumes: fitted before it is trained, joined with it after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.data.network_inputs import ItemImages, batches
from medformer.data.volumes.prepare.patches import WholeImages
from medformer.inference.ridge import fit_ridge
from medformer.inference.single_thread import single_thread
from medformer.models.backbone.heads import Classifier
from medformer.models.networks.kernel import COARSE, SHAPE_NUMBERS, KernelPath
from medformer.tasks.wide import log_odds, set_gate

SEES = "shape and coarse voxels"
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Of the ridge; the one is taken whose squared error of left-out training cases is least."""


def fit_kernel(
    model: Classifier, path: KernelPath, images: WholeImages, labels: Mapping[str, int], *, batch_size: int
) -> dict[str, float]:
    """Fit the kernel machine on training cases as they are, without augmentation.

    Args:
        model: The network, in whose place images are computed.
        path: Beside it; its weights are replaced, and its gate is opened.
        images: The training cases.
        labels: 0 or 1, by id.
        batch_size: Cases per pass.

    Returns:
        The score of each training case by a model that was fitted without it, by id. (How descriptions are scaled was
        learned with it, from its image alone.)
    """
    with single_thread(), torch.no_grad():
        found = [path.describe(part) for part in batches(ItemImages(images.plain()), model, batch_size)]
        rows = torch.cat(found).double()
        path.center.copy_(rows.mean(0))
        path.scale.copy_(_scales(rows.shape[1], rows - rows.mean(0)))
        cosines = path.cosines(rows.to(path.center)).double().cpu().numpy()
        targets = np.array([2.0 * labels[name] - 1.0 for name in images.ids])
        fits = [fit_ridge(cosines, targets, penalty=penalty) for penalty in PENALTIES]
        best = min(fits, key=lambda fit: float(np.square(fit.left_out - targets).sum()))
        path.weights.copy_(torch.from_numpy(best.weights))
        path.bias.fill_(best.intercept)
        path.gate.fill_(1.0)
    return dict(zip(images.ids, best.left_out.tolist(), strict=True))


def _scales(size: int, rows: torch.Tensor) -> torch.Tensor:
    """Give each shape number a deviation of 1, and then shapes and voxels each a mean squared length of 1."""
    shapes = torch.arange(size) < size // (SHAPE_NUMBERS + COARSE**3) * SHAPE_NUMBERS
    deviations = rows.std(0, correction=0)
    scales = torch.where(shapes & (deviations > 1e-6), 1 / deviations.clamp_min(1e-6), 1.0).to(rows)
    for part in (shapes, ~shapes):
        length = (rows[:, part] * scales[part]).square().sum(1).mean().sqrt()
        scales[part] /= length if length > 0 else 1.0
    return scales


def join(
    model: Classifier,
    path: KernelPath,
    validation: ItemImages,
    labels: NDArray[np.int64],
    *,
    folder: Path,
    batch_size: int,
) -> dict[str, Any]:
    """Choose how much of a trained network is added to its kernel machine; see `set_gate`.

    Args:
        model: The network; its gate is set.
        path: Its kernel machine.
        validation: The inner validation part.
        labels: Theirs, 0 or 1, (n,).
        folder: Holds the weights that the training left.
        batch_size: Cases per pass.
    """
    model.eval()
    simple, deep = [], []
    with torch.inference_mode():
        for part in batches(validation, model, batch_size):
            simple.append(path.score(part).double().cpu().numpy())
            deep.append(model.classify(part))
    known = np.concatenate(simple) if simple else np.empty(0)
    return {"sees": SEES, **set_gate(path, known, log_odds(deep), labels, folder)}
