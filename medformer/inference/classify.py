"""From connectomes to scores: the mean probability of the positive class over some networks.

predict_scores(models, edges, *, ids, batch_size=128, device=None) -> float64 (n,)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.errors import DataError
from medformer.inference.connectome_validation import batches
from medformer.tensor_file import name_some


def predict_scores(
    models: Sequence[nn.Module],
    edges: Mapping[str, NDArray[np.float32]],
    *,
    ids: Sequence[str],
    batch_size: int = 128,
    device: torch.device | None = None,
) -> NDArray[np.float64]:
    """Return each subject's probability of class 1, the mean over the models, float64 (n,).

    Args:
        models: Give logits (B, 2) for connections {atlas: (B, d)}. They are put into evaluation mode, and moved if a
            device is given.
        edges: By atlas, (n, d).
        ids: Of the subjects, for messages.
        batch_size: Subjects per pass.
        device: Where to compute; where the models are without one.

    Raises:
        DataError: There is no model or atlas, rows and ids do not agree, or a connection or a score is not finite.
    """
    if not models or not edges:
        raise DataError(f"Got {len(models)} network(s) and {len(edges)} atlas(es); expected at least one of each.")
    for atlas, block in edges.items():
        if len(block) != len(ids):
            raise DataError(f"Atlas '{atlas}' has {len(block)} rows for {len(ids)} subjects; expected one for each.")
        bad = [name for name, row in zip(ids, block, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise DataError(
                f"Atlas '{atlas}' has connections that are NaN or infinite in {name_some(bad)}. Leave these subjects "
                "out, or prepare the cohort again."
            )
    total = np.zeros(len(ids))
    for model in models:
        if device is not None:
            model.to(device)
        model.eval()
        with torch.inference_mode():
            parts = [torch.softmax(model(part).double(), 1)[:, 1].cpu() for part in batches(edges, model, batch_size)]
        total += torch.cat(parts).numpy() if parts else 0.0
    scores: NDArray[np.float64] = total / len(models)
    bad = [name for name, score in zip(ids, scores, strict=True) if not np.isfinite(score)]
    if bad:
        raise DataError(
            f"The network's output is not finite for {name_some(bad)}, though its input is. Train again with a lower "
            "training.lr."
        )
    return scores
