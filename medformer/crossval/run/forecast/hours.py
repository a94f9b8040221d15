"""A run that is given a time: minutes of each training, and what is given up so that they are enough to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from medformer.config import AnyConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.begin.given_parts import draw
from medformer.crossval.run.contract import Study
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.forecast.say import step_words, whole_run
from medformer.crossval.run.record import read_config
from medformer.data.inventory import Inventory
from medformer.errors import ConfigError
from medformer.imaging.geometry import times
from medformer.progress import duration
from medformer.training.pace import Pace

UPDATES = 250
"""Optimizer steps that a training should have at least, unless its epochs have fewer; for them size and folds are given
up."""

LEAST = 10
"""Optimizer steps below which nothing is learned."""

FEWEST_FOLDS = 3
"""Folds that are never given up."""

RESERVE = 0.1
"""Share of the hours for reading data, baselines and the report."""

_PRETRAINING = 1 / 3
"""Largest share of a fold's time that pretraining gets."""

_TRIES = 3
"""How often a smaller size is timed again."""

_DECIDED = {"size": ("data.image_size", "plan.voxels"), "folds": ("crossval.folds",)}
"""Keys that a given time decides, by what `training.give_up` calls them."""

S = TypeVar("S", bound=Study[Any, Any])
M = TypeVar("M", bound=BaseModel)


def as_begun(config: AnyConfig, out: Path, *, resume: bool) -> AnyConfig:
    """Take over what the time decided when a run began, as far as the config still gives it the same time.

    Raises:
        ConfigError: The config of the run that goes on was changed.
    """
    directory = RunDirectory(out, resumed=True)
    if not (resume and directory.is_run() and directory.config_yaml.is_file()):
        return config
    begun = read_config(directory)
    before = begun.get("training") or {}
    hours, minutes = config.training.hours, config.training.minutes
    if (before.get("hours") != hours) if hours is not None else (minutes is None or before.get("minutes") != minutes):
        return config
    keys = [key for name in config.training.give_up for key in _DECIDED[name]]
    if hours is None:
        keys = ["plan.voxels"] if getattr(getattr(config, "plan", None), "voxels", 0) is None else []
        if before.get("hours") is not None:
            # The config is that of the run itself, in which the hours are replaced by what they decided.
            keys += ["training.hours", "training.give_up"]
    else:
        keys += ["training.minutes", *(["pretraining.epochs"] if config.pretraining.enabled else [])]
    for key in keys:
        section, name = key.split(".")
        if name in (begun.get(section) or {}) and hasattr(getattr(config, section, None), name):
            value = begun[section][name]
            config = with_value(config, key, tuple(value) if isinstance(value, list) else value)
    return config


def with_value(config: M, key: str, value: Any) -> M:
    """Return a config with another value of a dotted key of a section."""
    section, name = key.split(".")
    return config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})


def fit_time(study: S, inventory: Inventory, cache: Path) -> tuple[S, list[str]]:
    """Make a run fit the time that its config gives it, if it gives one.

    With `training.hours`, trainings that take less than half of it stay as they are. Others train by the clock: each
    gets an equal part of the hours, without a reserve and what tests are expected to take. Where that is too little for
    `UPDATES` steps, what `training.give_up` allows is given up in its order: images or patches become smaller, then
    there are fewer folds. With `training.minutes` alone, only the patch of volumes is looked at.

    Args:
        study: Of the run.
        inventory: Of its cases.
        cache: Of prepared data.

    Returns:
        The study with what was decided, and what must be said and written into the report.

    Raises:
        ConfigError: The time is not enough for any training, or folds run side by side.
    """
    training = study.config.training
    if training.hours is None and (training.minutes is None or not study.minutes_decide_size):
        return study, []
    if training.hours is not None and (study.config.execution.executor != "inline" or training.devices > 1):
        raise ConfigError(
            "--hours (training.hours) counts folds that run one after another on one device. With "
            f"execution.executor={study.config.execution.executor} or several training.devices, give training.minutes, "
            "the time of each training."
        )
    return _Fit(study, inventory, cache).run()


class _Fit:
    """One search; `study`, `folds` and `pace` are what has been decided so far."""

    def __init__(self, study: Any, inventory: Inventory, cache: Path) -> None:
        self.study, self.inventory, self.cache = study, inventory, cache
        self.hours = study.config.training.hours
        self.lost: list[str] = []
        self._look()

    def _look(self) -> None:
        kept = self.study.without(self.study.held_out)
        cases = [kept.plan_case(case, self.inventory[case.id]) for case in kept.cases]
        self.folds: Sequence[Fold] = draw(self.study, cases).folds
        self.pace: Pace = kept.learner(self.inventory, self.cache).pace(self.folds[0])

    def run(self) -> tuple[Any, list[str]]:
        config, pace = self.study.config, self.pace
        if self.hours is not None and config.training.minutes is None:
            whole = self._runs * (whole_run(config, self.folds, pace) + len(self.folds) * pace.after)
            if whole <= self.hours * 3600 / 2:
                return self.study, [
                    f"--hours {self.hours:g}: the run is expected to take {duration(whole)}; nothing is given up."
                ]
        steps: Mapping[str, Callable[[], None]] = {"size": self._smaller, "folds": self._fewer_folds}
        if self.hours is not None:
            self._shorter_pretraining()
        for name in config.training.give_up:
            if self.updates < self.wanted and (self.hours is not None or name == "size"):
                steps[name]()
        if self.hours is None:
            return self.study, self._lines(f"training.minutes={config.training.minutes:g}")
        least = min(LEAST, self.wanted)
        if self.updates < least:
            needed = self._seconds_of_fold(least) * len(self.folds) * self._runs / (1 - RESERVE)
            raise ConfigError(
                f"--hours {self.hours:g} (training.hours) is not enough for {len(self.folds)} fold(s) of "
                f"{self.pace.networks} training(s): {least} steps of each, and the tests, take about "
                f"{duration(needed)}. Give at least {ceil(needed / 36 * 1.1) / 100:g}, or less to do."
            )
        minutes = float(f"{self.seconds / 60:.3g}")
        lines = self._lines(f"--hours {self.hours:g}: {minutes:g} minutes for each training")
        return self.study.configured(with_value(self.study.config, "training.minutes", minutes)), lines

    @property
    def _runs(self) -> int:
        """How often all folds are trained: the canary trains them again."""
        return 2 if self.study.config.crossval.permute_labels else 1

    @property
    def seconds(self) -> float:
        """Of one training."""
        if self.hours is None:
            return 60.0 * self.study.config.training.minutes
        fold = self.hours * 3600 * (1 - RESERVE) / (len(self.folds) * self._runs)
        return (fold - self.pace.after - self.pace.pretraining * self.pace.step) / self.pace.networks

    @property
    def updates(self) -> int:
        """Optimizer steps that fit into a training, with a validation after each epoch."""
        return max(0, int(self.seconds * self.pace.steps / self.pace.epoch))

    @property
    def wanted(self) -> int:
        """Optimizer steps below which something is given up: no more than the epochs of the config have."""
        training = self.study.config.training
        return UPDATES if training.minutes is not None else min(UPDATES, training.epochs * self.pace.steps)

    def _seconds_of_fold(self, updates: int) -> float:
        """What a fold takes, tests included, with so many updates of each network."""
        pace = self.pace
        rest = pace.networks * updates * pace.epoch / pace.steps + pace.after
        # More hours lengthen pretraining that was shortened, up to its share.
        return max(rest + pace.pretraining * pace.step, rest / (1 - _PRETRAINING)) if pace.pretraining else rest

    def _smaller(self) -> None:
        before = self.pace
        for _ in range(_TRIES):
            # Smaller inputs make tests quicker too, and small ones take longer than their share of the voxels.
            wanted = self.wanted * self.pace.epoch / self.pace.steps
            smaller = self.study.shrunk(wanted / max(self.seconds, 1e-9), self.pace)
            if smaller is None or self.updates >= self.wanted:
                break
            smaller.check()
            self.study = smaller
            self._look()
        if self.pace.size != before.size or self.pace.batch_size != before.batch_size:
            self.lost.append(
                f"steps of {_inputs(self.pace)} instead of {_inputs(before)}, "
                f"{_voxels(before) / _voxels(self.pace):.2g} times less"
            )

    def _fewer_folds(self) -> None:
        crossval = self.study.config.crossval
        if "k-fold" not in crossval.scheme or crossval.folds <= FEWEST_FOLDS:
            return
        before = count = crossval.folds
        while count > FEWEST_FOLDS and self.updates < self.wanted:
            count = max(FEWEST_FOLDS, min(count - 1, count * self.updates // self.wanted))
            self.study = self.study.configured(with_value(self.study.config, "crossval.folds", count))
            self._look()
        self.lost.append(
            f"{self.study.config.crossval.folds} folds instead of {before}, each trained on fewer of the cases"
        )

    def _shorter_pretraining(self) -> None:
        wanted, pace = self.study.config.pretraining, self.pace
        share = self.hours * 3600 * (1 - RESERVE) / (len(self.folds) * self._runs) * _PRETRAINING
        if not pace.pretraining or pace.pretraining * pace.step <= share:
            return
        epochs = max(1, int(wanted.epochs * share / (pace.pretraining * pace.step)))
        self.study = self.study.configured(with_value(self.study.config, "pretraining.epochs", epochs))
        self.lost.append(f"{epochs} epochs of pretraining instead of {wanted.epochs}")
        self._look()

    def _lines(self, what: str) -> list[str]:
        enough = "" if self.updates >= self.wanted else f", fewer than the {self.wanted} that a training should have"
        given = f" Given up for it: {'; '.join(self.lost)}." if self.lost else ""
        if self.hours is None and not (self.lost or enough):
            return []
        return [f"{what}, about {self.updates} steps of {step_words(self.pace.step)} here{enough}.{given}"]


def _inputs(pace: Pace) -> str:
    return f"{pace.batch_size} x ({times(pace.size)})"


def _voxels(pace: Pace) -> int:
    count = pace.batch_size
    for side in pace.size:
        count *= side
    return count
