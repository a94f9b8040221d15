"""Classification: from connectomes or images to scores, and from scores to probabilities and decisions.

What makes decisions (a sigmoid, a threshold) is learned on cases that did not train the network; so is the number that
chooses the network's weights and stops its training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.data.network_inputs import Inputs, batch_of, batches, count_batches, nonfinite_cases, with_float64
from medformer.errors import DataError
from medformer.files import write_csv
from medformer.inference.threshold import (
    DEFAULT,
    BalancedAccuracyThreshold,
    count_classes,
    count_positives,
    learn_threshold,
    read_threshold,
    shortage,
)
from medformer.models.judge import PartwiseScore
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
                found = found + torch.softmax(with_float64(model(part)).double(), 1)[:, 1].cpu()
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
class ValidationLoss(PartwiseScore):
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

    def __len__(self) -> int:
        return count_batches(self.inputs, self.batch_size)

    @torch.no_grad()
    def parts(self, model: nn.Module, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the logits of batches."""
        for number in numbers:
            yield model(batch_of(self.inputs, model, self.batch_size, number)).float()

    def score(self, parts: Sequence[Tensor]) -> float:
        """Return the loss."""
        logits = torch.cat([part.cpu() for part in parts])
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


VALIDATION_SCORES = "validation.csv"
"""A fold's table of inner validation scores: id, label, score."""

THRESHOLD = "threshold.json"
"""A fold's threshold, where it is from, and the sigmoid if there is one."""

# The flattest sigmoid, per standard deviation of the scores: its order is still the scores' order.
_FLATTEST = 0.01

# Scores are kept this far from 0 and 1, where log odds are infinite.
LEAST = 1e-6


class PlattScaling:
    """Turns decision values into probabilities by a rising sigmoid (Platt 1999, with his smoothed targets).

    The targets of a class with n cases are 1 / (n + 2) away from 0 or 1 (Lin, Lin and Weng, Machine Learning 2007),
    which keeps the sigmoid of separable cases finite. It always rises: on few cases the best fit may fall, which would
    turn the classifier's order around. Until it is fitted, it is the logistic function.

    Attributes:
        slope_: Per unit of the decision value, above 0.
        intercept_: Log odds at a decision value of 0.
    """

    slope_: float = 1.0
    intercept_: float = 0.0

    def fit(self, values: NDArray[np.float64], labels: NDArray[np.int64]) -> Self:
        """Learn the sigmoid from decision values and labels in {0, 1}, both of shape (n,).

        Raises:
            DataError: A class is missing.
        """
        from scipy.optimize import minimize

        positives = count_positives(labels)
        negatives = len(labels) - positives
        target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        center, spread = float(values.mean()), float(values.std()) or 1.0
        standard = (values - center) / spread

        def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits = parameters[0] * standard + parameters[1]
            residual = expit(logits) - target
            value = float(np.sum(np.logaddexp(0.0, logits) - target * logits))
            return value, np.array([residual @ standard, residual.sum()])

        found = minimize(
            loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(_FLATTEST, None), (None,) * 2]
        )
        self.slope_ = float(found.x[0]) / spread
        self.intercept_ = float(found.x[1]) - self.slope_ * center
        return self

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the positive class, shape (n,)."""
        return np.asarray(expit(self.slope_ * values + self.intercept_))


@dataclass(frozen=True)
class Decision:
    """What a fold learned from its inner validation part.

    Attributes:
        threshold: A case is positive where its probability is at least this.
        scaling: The sigmoid that makes probabilities; None where outputs are taken as they are.
        log_odds: Whether the sigmoid is one of the outputs' log odds, or of the outputs themselves.
        uncalibrated: Why the sigmoid that was asked for was not learned; empty where it was, or was not asked for.
    """

    threshold: float
    scaling: PlattScaling | None = None
    log_odds: bool = True
    uncalibrated: str = ""

    def probabilities(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of class 1 for a classifier's outputs (n,)."""
        return outputs if self.scaling is None else self.scaling.transform(_scaled(outputs, self.log_odds))


def learn_decision(
    folder: Path,
    ids: Sequence[str],
    labels: NDArray[np.int64],
    outputs: NDArray[np.float64],
    *,
    calibrate: bool,
    threshold: float | Literal["fit"],
    log_odds: bool = True,
) -> Decision:
    """Learn sigmoid and threshold, and leave `validation.csv` and `threshold.json` in a fold's folder.

    Neither is learned from fewer cases than `shortage` allows: 10 of each class for the two numbers of the sigmoid, 5
    for the threshold. Outputs then stay as they are (decision values go through the logistic function), and the
    threshold is 0.5. `threshold.json` says so.

    Args:
        folder: Of the fold.
        ids: Inner validation cases.
        labels: Theirs, 0 or 1, (n,).
        outputs: Theirs by the classifier, (n,): in [0, 1], unless a sigmoid of other decision values is fitted.
        calibrate: Fit a sigmoid.
        threshold: A number in [0, 1], or `fit`: the one with the highest balanced accuracy.
        log_odds: Fit the sigmoid on the outputs' log odds; otherwise on the outputs.

    """
    reason = shortage(count_classes(labels), numbers=2) if calibrate else ""
    scaling = None
    if calibrate and not reason:
        scaling = PlattScaling().fit(_scaled(outputs, log_odds), labels)
    elif calibrate and not log_odds:
        scaling = PlattScaling()
    scores = Decision(DEFAULT, scaling, log_odds).probabilities(outputs)
    rows = [
        {"id": name, "label": int(label), "score": float(score)}
        for name, label, score in zip(ids, labels, scores, strict=True)
    ]
    write_csv(folder / VALIDATION_SCORES, rows, ["id", "label", "score"])
    about: dict[str, Any] = {}
    if calibrate:
        about["calibration"] = {"learned": not reason, "cases": count_classes(labels)}
        about["calibration"] |= {"reason": reason} if reason else {}
    if scaling is not None:
        about["sigmoid"] = {"slope": scaling.slope_, "intercept": scaling.intercept_}
    learned = learn_threshold(
        threshold,
        BalancedAccuracyThreshold(),
        scores,
        labels,
        count=lambda: count_classes(labels),
        path=folder / THRESHOLD,
        about=about,
    )
    return Decision(learned, scaling, log_odds, reason)


def read_decision(folder: Path, *, log_odds: bool = True) -> Decision:
    """Read what `learn_decision` left in a fold's folder; `log_odds` as it was given there.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    content = read_threshold(folder / THRESHOLD)
    scaling = None
    if content.sigmoid is not None:
        scaling = PlattScaling()
        scaling.slope_, scaling.intercept_ = content.sigmoid.slope, content.sigmoid.intercept
    reason = content.calibration.reason if content.calibration else ""
    return Decision(content.threshold, scaling, log_odds, reason)


def _scaled(outputs: NDArray[np.float64], log_odds: bool) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(outputs, LEAST, 1 - LEAST))) if log_odds else outputs
