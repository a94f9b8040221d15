"""How long the training of a fold takes: what is expected before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from medformer.config.shared import PretrainingConfig, TrainingConfig
from medformer.progress import duration

FORESEEN = 600.0
"""Seconds that the trainings of a run must take together for it to be said in advance."""

_LONG_STEP = 5.0


@dataclass(frozen=True)
class Pace:
    """What the parts of a fold take on this machine, expected.

    Attributes:
        steps: Optimizer steps of an epoch.
        step: Of them, s. Loading and augmentation are not in it.
        validation: Of the inner validation part, after each epoch, s.
        after: What follows the trainings of a fold, s: thresholds, and predicting its test part.
        networks: Trained one after another in a fold.
        pretraining: Optimizer steps of pretraining in a fold.
        batch_size: Cases or patches per step.
        size: Pixels or voxels per axis of one of them; empty where they have none.
    """

    steps: int
    step: float
    validation: float
    after: float
    networks: int = 1
    pretraining: int = 0
    batch_size: int = 1
    size: tuple[int, ...] = ()

    @property
    def epoch(self) -> float:
        """Seconds of an epoch with its validation."""
        return self.steps * self.step + self.validation

    def fold(self, config: TrainingConfig) -> float:
        """Seconds that a fold trains, pretraining included."""
        each = config.epochs * self.epoch if config.minutes is None else 60 * config.minutes
        return self.networks * each + self.pretraining * self.step


def steps_of(cases: int, batch_size: int, devices: int = 1) -> int:
    """Optimizer steps of an epoch over so many cases or patches."""
    return max(1, cases // (batch_size * devices))


def pretraining_steps(wanted: PretrainingConfig, cases: int, batch_size: int, devices: int = 1) -> int:
    """Optimizer steps that pretraining in a fold takes; 0 without it."""
    return wanted.epochs * steps_of(cases, batch_size, devices) if wanted.enabled and not wanted.weights else 0


class Outlook:
    """Says how long the rest of a training will take, from what its steps and epochs have taken so far.

    Args:
        config: How it is trained.
        steps: Of an epoch.
        trainings: How many like this one the run still has, this one included.
    """

    def __init__(self, config: TrainingConfig, steps: int, trainings: int) -> None:
        self._config, self._steps, self._trainings = config, steps, trainings
        self._budget = None if config.minutes is None else config.minutes * 60.0
        self._timed = 0

    def after_step(self, seconds: float, epoch: int, elapsed: float) -> str:
        """Say once what the trainings of the run will take: after the second step, or a first that is long.

        Args:
            seconds: That the step took.
            epoch: Epochs that are complete.
            elapsed: Seconds of this training.

        Returns:
            Nothing but that once, and nothing where it is not long.
        """
        self._timed += 1
        if self._timed > 2 or (self._timed == 1 and seconds < _LONG_STEP):
            return ""
        self._timed = 2
        whole = self._left(self._steps * seconds, epoch, elapsed)
        together, count = whole * self._trainings, self._trainings
        if together < FORESEEN:
            return ""
        most = "at most" if self._config.patience else "about"
        every = f", {duration(together)} for the {count} trainings that are left" if count > 1 else ""
        return (
            f"A step takes {duration(seconds)} here: {most} {duration(whole)} for this training{every}. Validation, "
            "and what runs beside the model, are not in it."
        )

    def after_epoch(self, epoch: int, elapsed: float) -> str:
        """Say how long the rest will take at the pace of the epochs so far."""
        left = self._left(elapsed / epoch, epoch, elapsed)
        return f", {'at most' if self._config.patience else 'about'} {duration(left)} left"

    def _left(self, seconds: float, epoch: int, elapsed: float) -> float:
        """Seconds that are left when an epoch takes so many."""
        return seconds * (self._config.epochs - epoch) if self._budget is None else self._budget - elapsed
