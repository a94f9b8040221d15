"""The numbers that choose a classifier's weights and stop its training, from the inner validation part.

ValidationLoss(inputs, labels, batch_size=128)    cross-entropy, measure "loss"
ValidationAuc(inputs, labels, batch_size=128)     area under the ROC curve, measure "auc"

Inputs are connections by atlas or images (see `medformer.data.network_inputs`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.data.network_inputs import Inputs, batches
from medformer.errors import DataError


class ValidationLoss:
    """Mean cross-entropy over cases.

    On few cases it says more than their accuracy, which moves in steps.

    Args:
        inputs: Connections by atlas, or images, of the inner validation part.
        labels: Their labels, 0 or 1, (n,).
        batch_size: Cases per pass.
    """

    measure = "loss"

    def __init__(self, inputs: Inputs, labels: ArrayLike, batch_size: int = 128) -> None:
        self.inputs = inputs
        self.labels = np.asarray(labels, np.int64)
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the loss of a model in evaluation mode."""
        return self.score(
            torch.cat([model(part).float().cpu() for part in batches(self.inputs, model, self.batch_size)])
        )

    def score(self, logits: Tensor) -> float:
        """Turn the logits of all cases, (n, 2), into the number."""
        return float(F.cross_entropy(logits, torch.from_numpy(self.labels)))


class ValidationAuc(ValidationLoss):
    """Area under the ROC curve over cases.

    Raises:
        DataError: A class is missing.
    """

    measure = "auc"

    def __init__(self, inputs: Inputs, labels: ArrayLike, batch_size: int = 128) -> None:
        super().__init__(inputs, labels, batch_size)
        if len(np.unique(self.labels)) < 2:
            raise DataError(
                f"The {len(self.labels)} inner validation cases are all of one class; expected both. Hold out a "
                "larger share (crossval.validation) or stratify by label."
            )

    def score(self, logits: Tensor) -> float:
        margin = (logits[:, 1] - logits[:, 0]).double().numpy()
        # The metric refuses numbers that are not finite; the loop has a better message for them.
        return float(roc_auc_score(self.labels, margin)) if np.isfinite(margin).all() else float("nan")
