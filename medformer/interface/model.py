"""What all trained models have in common, whatever their task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.contract import Predictor
from medformer.data.training_range import read_range
from medformer.errors import ConfigError, DataError
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device

Paths = list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...]
"""Several paths. A single text is one path."""


def paths_of(what: Any) -> list[Path]:
    """The paths that are given, one or several.

    Raises:
        DataError: Something else is given, or nothing.
    """
    try:
        if isinstance(what, Mapping):
            raise TypeError("its keys are no paths")
        given = [what] if isinstance(what, (str, Path)) else list(what)
        paths = [Path(path) for path in given]
    except TypeError:
        raise DataError(
            f"Got {type(what).__name__}; expected a NumPy array, a path, or a list of paths. np.asarray(...) makes an "
            "array of what holds numbers; several arrays are given one at a time."
        ) from None
    if not paths:
        raise DataError("Got an empty list; expected at least one path.")
    if any(isinstance(path, str) and not path for path in given):
        # It would mean the folder that the program happens to run in.
        raise DataError("Got an empty text; expected a path. '.' is the current folder.")
    return paths


def threshold_of(own: float, given: float | None) -> float:
    """The threshold that counts: the one that is given, or else the model's own.

    Raises:
        ConfigError: It is no number from 0 to 1.
    """
    if given is None:
        return own
    if isinstance(given, bool) or not isinstance(given, Real) or not 0.0 <= given <= 1.0:
        raise ConfigError(f"threshold={given!r}; expected a number from 0 to 1, as scores are.")
    return float(given)


def require_one_of(name: str, value: Any, options: Any) -> None:
    """Refuse the value of an argument that is none of a `Literal`.

    Raises:
        ConfigError: Lists the options.
    """
    if value not in get_args(options):
        raise ConfigError(f"{name}={value!r}; expected {' or '.join(map(repr, get_args(options)))}.")


class Model:
    """A trained model: the network of a run, or the ensemble of its folds, with all that its predictions follow from.

    `load` makes the model of the task that a folder is of; its `predict` takes what the task is about.

    Attributes:
        predict: Predicts a case that is in memory or in a file, or several in files; see the class of the task.

    Args:
        trained: What was opened.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        CheckpointError: A file is missing, damaged or does not fit.
        ResourceError: The device is not there.
    """

    predict: Callable[..., Any]

    def __init__(self, trained: Trained, device: str = "auto") -> None:
        self._trained = trained
        self._range = read_range(trained.folders)
        self._predictor: Predictor = trained.load(choose_device(device))

    @property
    def path(self) -> Path:
        """The folder that was opened."""
        return self._trained.path

    @property
    def task(self) -> str:
        """`polyp`, `abide` or `volume`."""
        return self._trained.task

    @property
    def config(self) -> Any:
        """Of the training."""
        return self._trained.config

    @property
    def networks(self) -> int:
        """Folds whose networks are averaged."""
        return len(self._trained.folders)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, networks={self.networks})"


@dataclass(frozen=True)
class ClassResult:
    """Which of two classes a case is of.

    Attributes:
        id: Name of the case; empty for one that was given as numbers.
        score: Of the positive class, in [0, 1]: the mean over the folds. A probability where `calibrated`.
        positive: Whether the score is at least the threshold.
        threshold: The mean of those that the folds learned, or the one that was given.
        label: What the class is called.
        calibrated: Whether every fold learned to turn its outputs into probabilities.
        by_fold: The score by each fold.
        warnings: What is unlike the cases of the training.
    """

    id: str
    score: float
    positive: bool
    threshold: float
    label: str
    calibrated: bool
    by_fold: Mapping[str, float]
    warnings: tuple[str, ...] = field(default=(), kw_only=True)


class ClassModel(Model):
    """A model of two classes.

    Attributes:
        label_names: What class 1 and class 0 are called.
    """

    label_names: Mapping[int, str]

    def __init__(self, trained: Trained, device: str = "auto") -> None:
        super().__init__(trained, device)
        self.label_names = {1: "positive", 0: "negative"}

    @property
    def predictor(self) -> ClassPredictor:
        """Its scorers, calibrations and thresholds."""
        return cast(ClassPredictor, self._predictor)

    @property
    def threshold(self) -> float:
        """A case is positive where its score is at least this."""
        return self.predictor.threshold

    @property
    def calibrated(self) -> bool:
        """Whether scores are calibrated probabilities."""
        return all(decision.scaling is not None for _, decision in self.predictor.members)

    def _classified(
        self,
        names: Sequence[str],
        scores: NDArray[np.float64],
        threshold: float,
        warnings: Sequence[tuple[str, ...]],
    ) -> list[ClassResult]:
        """The results of cases from their scores by each fold, (folds, n)."""
        folds = [folder.name for folder in self._trained.folders]
        results = []
        # The mean as tables have it: summed in another order, its last digit could differ.
        means = scores.mean(axis=0)
        for name, mean, by_fold, said in zip(names, means, scores.T, warnings, strict=True):
            score = float(mean)
            results.append(
                ClassResult(
                    name,
                    score,
                    score >= threshold,
                    threshold,
                    self.label_names[int(score >= threshold)],
                    self.calibrated,
                    dict(zip(folds, map(float, by_fold), strict=True)),
                    warnings=said,
                )
            )
        return results
