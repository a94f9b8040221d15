"""From connectomes or images to scores, and the number that chooses a classifier's weights and stops its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.data.network_inputs import Inputs, batches, nonfinite_cases
from medformer.errors import DataError
from medformer.tensor_file import name_some


def predict_scores(
    models: Sequence[nn.Module],
    inputs: Inputs,
    *,
    ids: Sequence[str],
    batch_size: int = 128,
    device: torch.device | None = None,
) -> NDArray[np.float64]:
    """Return each case's probability of class 1, the mean over the models, float64 (n,).

    Args:
        models: Give logits (B, 2) for connections {atlas: (B, d)} or images (B, C, *S). They are put into evaluation
            mode, and moved if a device is given.
        inputs: Connections by atlas, (n, d), or images, which are read once, a batch at a time.
        ids: Of the cases, for messages.
        batch_size: Cases per forward pass.
        device: Where to compute; where the models are without one.

    Raises:
        DataError: There is no model or atlas, cases and ids do not agree, or an input or a score is not finite.
    """
    if not models or (isinstance(inputs, Mapping) and not inputs):
        atlases = f" and {len(inputs)} atlas(es)" if isinstance(inputs, Mapping) else ""
        raise DataError(f"Got {len(models)} network(s){atlases}; expected at least one of each.")
    _require_one_for_each(inputs, ids)
    for model in models:
        if device is not None:
            model.to(device)
        model.eval()
    scores = np.zeros(len(ids))
    first = 0
    with torch.inference_mode():
        for part in batches(inputs, models[0], batch_size):
            found = torch.zeros(())
            for model in models:
                found = found + torch.softmax(model(part).double(), 1)[:, 1].cpu()
            rows = slice(first, first + len(found))
            _require_finite(part, ids[rows])
            scores[rows] = found.numpy() / len(models)
            first = rows.stop
    bad = [name for name, score in zip(ids, scores, strict=True) if not np.isfinite(score)]
    if bad:
        raise DataError(
            f"The network's output is not finite for {name_some(bad)}, though its input is. Train again with a lower "
            "training.lr."
        )
    return scores


@dataclass(frozen=True)
class ValidationLoss:
    """Mean cross-entropy over cases.

    On few cases it says more than their accuracy, which moves in steps.

    Args:
        inputs: Connections by atlas, or images, of the inner validation part.
        labels: Their labels, 0 or 1, (n,).
        batch_size: Cases per forward pass.
    """

    inputs: Inputs
    labels: ArrayLike
    batch_size: int = 128
    measure: ClassVar[str] = "loss"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the loss of a model in evaluation mode."""
        logits = torch.cat([model(part).float().cpu() for part in batches(self.inputs, model, self.batch_size)])
        return float(F.cross_entropy(logits, torch.from_numpy(np.asarray(self.labels, np.int64))))


def _require_one_for_each(inputs: Inputs, ids: Sequence[str]) -> None:
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(ids):
            raise DataError(f"Got {len(inputs)} images for {len(ids)} cases; expected one for each.")
        return
    for atlas, block in inputs.items():
        if len(block) != len(ids):
            raise DataError(f"Atlas '{atlas}' has {len(block)} rows for {len(ids)} subjects; expected one for each.")


def _require_finite(part: Tensor | Mapping[str, Tensor], ids: Sequence[str]) -> None:
    named = part if isinstance(part, Mapping) else {"": part}
    for atlas, block in named.items():
        bad = nonfinite_cases(ids, {atlas: block})
        if bad and atlas:
            raise DataError(
                f"Atlas '{atlas}' has connections that are NaN or infinite in {name_some(bad)}. Leave these subjects "
                "out, or prepare the cohort again."
            )
        if bad:
            raise DataError(f"Images hold NaN or infinity: {name_some(bad)}. Leave these cases out, or repair them.")
