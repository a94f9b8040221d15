"""What is said before the first fold trains: what it starts from, where, how long all of it takes, what to change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medformer.config import AnyConfig
from medformer.config.shared import WEIGHTS_SUFFIXES
from medformer.crossval.bundle import FOLDS
from medformer.crossval.plan import Fold
from medformer.crossval.run.contract import NetworkLearner, Study
from medformer.crossval.run.start.source import Start
from medformer.errors import MedformerError, counted
from medformer.progress import duration
from medformer.training.devices import choose_device
from medformer.training.pace import Pace

_FEW = 500
"""Cases that all trainings of a run must see together for a step to be timed in advance; fewer are soon done, or the
training says so itself after its first step."""

_LONG = {"cpu": 2 * 3600.0}
"""Seconds from which a run is long, by device: what is quicker is said then."""

_LONG_ELSEWHERE = 24 * 3600.0


def foresee(
    study: Study[Any, Any], folds: Sequence[Fold], learner: NetworkLearner, start: Start | None
) -> tuple[Sequence[str], bool]:
    """Say what the trainings of folds will take together.

    A few steps of a network of its own are timed, where the trainings are not given a time.

    Returns:
        Lines, and whether they name a time.
    """
    config = study.config
    trainings = len(folds) * getattr(config, "members", 1)
    minutes = config.training.minutes
    seen = config.training.epochs * sum(len(fold.train) for fold in folds)
    pace: Pace | None = None
    if config.execution.address is None and minutes is None and seen >= _FEW:
        # What goes wrong here goes wrong in the first fold too, which says of what, and keeps its own record.
        with suppress(MedformerError, RuntimeError, ValueError, AssertionError):
            pace = learner.pace(folds[0])
    length = counted(config.training.epochs, "epoch") if minutes is None else duration(60 * minutes)
    where = choose_device(config.training.accelerator).type if config.execution.address is None else "a Ray cluster"
    what = f"Starts from {starts_from(config, start)}; {counted(trainings, 'training')} of {length} on {where}"
    if pace is not None:
        total = whole_run(config, folds, pace)
        most = "at most" if config.training.patience else "about"
        time = (
            f"{most} {duration(total)} in all ({pace.steps} steps of {step_words(pace.step)} an epoch, and "
            f"validation). Loading, tests (about {duration(len(folds) * pace.after)}) and what runs beside the model "
            "are not in it"
        )
    elif minutes is not None:
        total = trainings * 60 * minutes
        time = f"{duration(total)} in all, without tests and what runs beside the model"
    else:
        return (f"{what}.",), False
    if config.crossval.permute_labels:
        total *= 2
        time += f"; with the canary, {duration(total)}"
    if config.execution.executor != "inline":
        time += "; folds side by side take less than these times, which are one after another"
    lines = [f"{what}: {time}."]
    if pace is not None and total > _LONG.get(where, _LONG_ELSEWHERE):
        lines.append(
            f"Note: that is long. Quicker: {study.quicker}--hours 2 (all of it in two hours; says what is given up), "
            "or training.minutes=10 (of each training)."
        )
    return lines, True


def whole_run(config: AnyConfig, folds: Sequence[Fold], pace: Pace) -> float:
    """Seconds that all folds train, one after another, if the first takes what `pace` says."""
    first = pace.fold(config.training)
    if config.training.minutes is not None:
        return first * len(folds)
    return first * sum(len(fold.train) for fold in folds) / len(folds[0].train)


def step_words(seconds: float) -> str:
    """Spell the time of a step."""
    return duration(seconds) if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"


def starts_from(config: AnyConfig, start: Start | None) -> str:
    """What the networks of a run start from, in words."""
    if start is not None:
        return f"the network of {start.record.what}"
    if config.pretraining.weights:
        return f"the encoder in {config.pretraining.weights}"
    name = getattr(config.model, "weights", None)
    begun = _weights_in_words(name) if name else "random weights"
    return f"{begun} and pretraining in each fold" if config.pretraining.enabled else begun


def _weights_in_words(name: str) -> str:
    path = Path(name).resolve()
    if path.suffix not in WEIGHTS_SUFFIXES:
        return f"the weights {name}"
    if path.parent.parent.name == FOLDS:
        return f"the encoder of fold {path.parent.name} of {path.parents[2].name}"
    return f"the weights in {path.name}"
