"""How long the training of a fold takes: what is expected before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from medformer.config.shared import PretrainingConfig, TrainingConfig


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
