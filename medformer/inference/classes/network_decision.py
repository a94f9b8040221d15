"""From the scores of a network's inner validation cases to probabilities and decisions on its test cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from medformer.errors import CheckpointError
from medformer.files import read_json
from medformer.inference.classes.decision import PlattScaling, settle_decision, write_validation_scores

_LEAST = 1e-6


@dataclass(frozen=True)
class NetworkDecision:
    """What was learned from the inner validation part.

    Attributes:
        threshold: A case is positive where its probability is at least this.
        scaling: The sigmoid that makes probabilities of log odds; None where scores are taken as they are.
    """

    threshold: float
    scaling: PlattScaling | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `learn_decision` left in a fold's folder.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        path = folder / "threshold.json"
        try:
            content = read_json(path)
            sigmoid = content.get("sigmoid")
            scaling = PlattScaling.of(float(sigmoid["slope"]), float(sigmoid["intercept"])) if sigmoid else None
            return cls(float(content["threshold"]), scaling)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is missing or damaged ({error}). Train again with --resume.") from None

    def probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Networks' mean scores (n,) by the sigmoid; as they are without one."""
        return scores if self.scaling is None else self.scaling.transform(_log_odds(scores))


def learn_decision(
    folder: Path,
    ids: Sequence[str],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    calibrate: bool,
    threshold: float | Literal["fit"],
) -> NetworkDecision:
    """Learn sigmoid and threshold, and leave `validation.csv` and `threshold.json` in a fold's folder.

    Args:
        folder: Of the fold.
        ids: Inner validation cases.
        labels: Theirs, 0 or 1, (n,).
        scores: Theirs by the network, in [0, 1], (n,).
        calibrate: Fit a sigmoid.
        threshold: A number in [0, 1], or `fit`: the one with the highest balanced accuracy.

    Raises:
        DataError: A class is missing.
    """
    scaling = PlattScaling().fit(_log_odds(scores), labels) if calibrate else None
    judged = NetworkDecision(0.5, scaling).probabilities(scores)
    write_validation_scores(folder, ids, labels, judged)
    settled = settle_decision(threshold, judged, labels, path=folder / "threshold.json", scaling=scaling)
    return NetworkDecision(settled, scaling)


def _log_odds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(scores, _LEAST, 1 - _LEAST)))
