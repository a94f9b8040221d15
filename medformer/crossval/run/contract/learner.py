"""A learner fits on the parts of a fold, in its context, and the fold leaves a predictor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medformer.config.shared import Workers
from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.start.source import Start
from medformer.inference.export_table import Exports
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.pace import Pace

Row = dict[str, Any]
"""One row of a table of predictions."""


@dataclass(frozen=True)
class Context:
    """What surrounds the work on one fold.

    Attributes:
        fold: The ids of its parts.
        folder: The fold's own folder: what is learned is written here, as plain data.
        run: The run that the fold belongs to; masks and overlays go below it.
        run_seed: The seed of the run.
        resume: Whether an earlier attempt may have left state in `folder` to continue from.
        reporter: Receives the progress.
        left: Folds that are still to be done, with this one; 0 where what they take was said already.
        start: The network of another run that training starts from; None to start from first weights.
    """

    fold: Fold
    folder: Path
    run: RunDirectory
    run_seed: int
    resume: bool
    reporter: Reporter
    left: int = 1
    start: Start | None = None

    def seed(self, *purpose: str | int) -> int:
        """A seed for one purpose in this fold of this repeat."""
        return derive_seed(self.run_seed, "repeat", self.fold.repeat, "fold", self.fold.index, *purpose)

    def options(
        self, metadata: Mapping[str, Any], *, out: Path | None = None, seed: int | None = None, workers: Workers = 0
    ) -> dict[str, Any]:
        """The keywords of a training in this fold (see `medformer.training.fit.fit`).

        Args:
            metadata: Kept beside the weights.
            out: Folder of the training; the fold's own without one.
            seed: Of the training; the fold's own without one.
            workers: Loader processes; see `BatchSource`.
        """
        started = {} if self.start is None else {"start_sha256": self.start.record.sha256}
        return {
            "out": out or self.folder,
            "seed": self.seed() if seed is None else seed,
            "workers": workers,
            "resume": self.resume,
            "metadata": {**metadata, **started},
            "run": self.run.path,
            "reporter": self.reporter,
            "trainings": self.left,
        }


class Predictor(Protocol):
    """What one fold, or an ensemble of folds, knows: weights, preprocessing, threshold, calibration, plan."""

    def predict(self, study: Any, names: Sequence[str], out: Exports, reporter: Reporter) -> Iterable[Row]:
        """Predict cases, labelled or new, and yield a row for each, in order.

        Args:
            study: The `Study` that holds the cases, of the same task.
            names: Ids of those to predict.
            out: Where masks and other files go; rows name them relative to its folder.
            reporter: Receives the progress.
        """


@runtime_checkable
class Recalling(Protocol):
    """A predictor that can say which stored cases the memory of its network answers with."""

    def recall(self, study: Any, names: Sequence[str], stored: Mapping[int, str]) -> list[Row]:
        """Return a row for each of some cases: its `id`, and what was retrieved.

        Args:
            study: The `Study` that holds the cases.
            names: Their ids.
            stored: Ids of the cases in the memory by their number.
        """


class Learner(Protocol):
    """Fits on the training part of a fold, and selects on its inner validation part."""

    @property
    def study(self) -> Any:
        """The `Study` that it learns from and is tested on."""

    def fit(self, context: Context) -> Predictor:
        """Learn from `context.fold.train` and `.validation`, and leave everything learned in `context.folder`.

        Raises:
            MedformerError: The cases, the settings or the machine do not allow it.
        """


class NetworkLearner(Learner, Protocol):
    """A learner of networks, which can also be pretrained without labels."""

    def pretrain(self, context: Context) -> Mapping[str, Any]:
        """Train an encoder to reconstruct hidden parts of its input; labels are not read.

        Returns:
            What `pretraining.json` says: the error on held-out cases, beside that of a guess.
        """

    def pace(self, fold: Fold) -> Pace:
        """What training in a fold takes on this machine, from a few timed steps of a network that is then dropped."""
