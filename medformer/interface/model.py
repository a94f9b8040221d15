"""What all trained models have in common, whatever their task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.contract import Predictor
from medformer.data.training_range import read_range
from medformer.errors import DataError
from medformer.tasks.trained import Trained
from medformer.training.devices import choose_device

Paths = list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...]
"""Several paths; a text alone is one."""


def paths_of(what: Any) -> list[Path]:
    """The paths that are given, one or several.

    Raises:
        DataError: Something else is given.
    """
    try:
        return [Path(path) for path in ([what] if isinstance(what, (str, Path)) else what)]
    except TypeError:
        raise DataError(
            f"Got {type(what).__name__}; expected a NumPy array, a path, or a list of paths. np.asarray(...) makes an "
            "array of what holds numbers."
        ) from None


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

    def _result(
        self, name: str, scores: Any, threshold: float | None = None, warnings: tuple[str, ...] = ()
    ) -> ClassResult:
        """The result of one case from its score by each fold, (folds,)."""
        cut = self.threshold if threshold is None else threshold
        score = float(scores.mean())
        positive = score >= cut
        folds = [folder.name for folder in self._trained.folders]
        return ClassResult(
            name,
            score,
            positive,
            cut,
            self.label_names[int(positive)],
            self.calibrated,
            dict(zip(folds, map(float, scores), strict=True)),
            warnings=warnings,
        )
