"""The contract of a task: it opens a study of cases, a learner fits on a fold, and the fold leaves a predictor.

Every number of a run comes from predictors applied to cases they never saw. The runner
(`medformer.crossval.run.runner`) knows nothing else of a task; the command line, `predict`, `explain` and the
benchmarks use the same objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch

from medformer.config import AnyConfig
from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.start.source import Start
from medformer.crossval.vectors import Vectors
from medformer.data.audit import Audit, Division, audit
from medformer.data.cases import Case, Dataset, is_test
from medformer.data.inventory import Inventory, Record, duplicates, formulas
from medformer.data.near_duplicates import CaseComparison
from medformer.data.problems import Problem
from medformer.data.seen import SeenCase
from medformer.data.training_range import Traits
from medformer.errors import ConfigError
from medformer.inference.export_table import Exports
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.devices import check_devices
from medformer.training.pace import Pace
from medformer.training.trackers.build import build_tracker

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
        self, metadata: Mapping[str, Any], *, out: Path | None = None, seed: int | None = None, workers: int = 0
    ) -> dict[str, Any]:
        """The keywords of a training in this fold (see `medformer.training.fit.fit`).

        Args:
            metadata: Kept beside the weights.
            out: Folder of the training; the fold's own without one.
            seed: Of the training; the fold's own without one.
            workers: Loader processes.
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


C = TypeVar("C", bound=AnyConfig)
D = TypeVar("D", bound=Dataset)


@dataclass(frozen=True, kw_only=True)
class Study(ABC, Generic[C, D]):
    """The cases of one task under one config: everything that a run asks about them.

    Attributes:
        config: The run's config.
        data: The cases.
    """

    config: C
    data: D

    @property
    def cases(self) -> Sequence[Case]:
        """In the order of the manifest."""
        return self.data.cases

    @property
    def by_id(self) -> Mapping[str, Case]:
        """Cases by id."""
        return self.data.by_id

    @property
    def crossval(self) -> CrossvalConfig:
        """How folds are drawn from these cases."""
        return self.config.crossval

    @property
    def held_out(self) -> Sequence[Case]:
        """The test rows, which are in no fold; none where the plan is the manifest's own (`predefined`)."""
        return () if self.crossval.scheme == "predefined" else [case for case in self.cases if is_test(case.split)]

    def without(self, cases: Sequence[Case]) -> Self:
        """The same study of the other cases."""
        left_out = {case.id for case in cases}
        kept = tuple(case for case in self.cases if case.id not in left_out)
        return replace(self, data=replace(cast(Any, self.data), cases=kept)) if left_out else self

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of results on these cases must know."""
        return ()

    @property
    def quicker(self) -> str:
        """The configs that train in less time, as words before a further option; empty where there are none."""
        return ""

    @property
    def minutes_decide_size(self) -> bool:
        """Whether the size of what a network sees is planned, so that the minutes of a training have a say in it."""
        return False

    def configured(self, config: C) -> Self:
        """The same study under another config."""
        return replace(self, config=config)

    def shrunk(self, factor: float, pace: Pace) -> Self | None:
        """The same study with smaller inputs of the network; None where they cannot be smaller.

        Args:
            factor: How many times less a step should take.
            pace: What a step takes now.
        """
        return None

    def check(self) -> None:
        """Build what every fold will build, so that a wrong name or size ends the run before any case is read.

        This base checks the device and the tracker; the networks are a task's own.

        Raises:
            ConfigError: An unknown name, settings that do not go together, or a package is missing.
            CheckpointError: A file of weights cannot be read or does not fit.
            ResourceError: The device is not there.
        """
        if self.config.execution.address is None:
            # A cluster's head may lack what its workers have; there the first fold tells.
            check_devices(self.config.training)
        build_tracker(self.config.training.tracker, Path(), Path())
        wanted = self.config.pretraining
        if self.config.training.init_from and (wanted.enabled or wanted.weights):
            key, off = ("weights", "''") if wanted.weights else ("enabled", "false")
            raise ConfigError(
                f"training.init_from and pretraining.{key} both say what training starts from, and a trained network "
                f"has its encoder already. Add pretraining.{key}={off}, or leave init_from out."
            )

    @abstractmethod
    def check_start(self, start: Start) -> None:
        """Refuse a network to start from (`training.init_from`) of which hardly anything fits, before any case is read.

        Raises:
            ConfigError: Hardly anything fits; says how the two networks differ.
            CheckpointError: Its files are damaged.
        """

    def check_training(self, cases: int) -> None:
        """Refuse settings that cannot train on so few cases, before any fold does.

        Args:
            cases: In the smallest training part of the plan.

        Raises:
            ConfigError: They cannot.
        """

    @abstractmethod
    def inspect(self, cache: Path | None, reporter: Reporter) -> Inventory:
        """Read every case once and describe it: problems, hashes, facts, descriptors.

        Args:
            cache: Folder that keeps the result (see `take_inventory`); None to keep nothing.
            reporter: Receives the progress.
        """

    def problems(self, inventory: Inventory) -> list[Problem]:
        """What is wrong with the cases, each by itself and compared with the others."""
        same = duplicates(self.cases, inventory, self.comparison.hashes)
        return [*inventory.problems, *same, *formulas(self.cases)]

    @abstractmethod
    def plan_case(self, case: Case, record: Record) -> PlanCase:
        """What planning needs to know of a case."""

    def seen_cases(self, inventory: Inventory) -> list[SeenCase]:
        """What tells each case apart from those of other runs: its id, its group, and hashes of its data."""
        kinds, found = self.comparison.hashes, []
        for case in self.cases:
            hashes = inventory[case.id].hashes
            found.append(SeenCase(case.id, case.group, {kind: hashes[kind] for kind in kinds if kind in hashes}))
        return found

    def traits(self, inventory: Inventory) -> Mapping[str, Traits]:
        """Measured quantities of each case by id, whose ranges over training cases tell which new cases are unlike."""
        return {}

    @property
    @abstractmethod
    def extra(self) -> Self | None:
        """The unlabeled cases that pretraining may see too; None without any."""

    @property
    @abstractmethod
    def comparison(self) -> CaseComparison:
        """How cases are compared, to find those that are the same or show the same thing."""

    def audit(self, divisions: Sequence[Division], inventory: Inventory) -> Audit:
        """Look for cases that share something and are in different parts of a division."""
        return audit(self.cases, divisions, inventory, self.comparison)

    @abstractmethod
    def learner(self, inventory: Inventory, cache: Path) -> NetworkLearner:
        """The method that the config names.

        Args:
            inventory: Of the cases.
            cache: Folder for prepared data that can be made again.
        """

    @abstractmethod
    def baselines(self, inventory: Inventory) -> Mapping[str, Callable[[], Learner]]:
        """Cheap methods for the same folds, by name."""

    @abstractmethod
    def relabelled(self, giver: Mapping[str, str], folder: Path) -> Self:
        """The same cases, each with the label or mask of another.

        Args:
            giver: For each id, the id of the case whose label it gets.
            folder: For label files that have to be written.
        """

    @abstractmethod
    def probe_features(self, inventory: Inventory) -> tuple[Vectors, str]:
        """What the site is predicted from, and its description in words."""

    def keep(self, run: RunDirectory) -> None:
        """Write into the run folder what the report and `predict` need of the data."""

    def facts(self, run: RunDirectory) -> None:
        """Write into a finished run what the report says of these cases."""


class Task(Protocol):
    """One row of the table of tasks (`medformer.tasks`)."""

    name: str

    def open(
        self, config: Any, reporter: Reporter, *, out: Path | None = None, labelled: bool = True
    ) -> Study[Any, Any]:
        """Open the cases that a config names.

        Args:
            config: The run's config.
            reporter: Receives the progress.
            out: The run folder, in which the manifest of a scanned folder will be kept.
            labelled: Refuse cases without a label or mask.

        Raises:
            ConfigError: The config names no data.
            DataError: They cannot be read.
        """

    def last_file(self, config: Any) -> str:
        """The file that a fold leaves in its folder once what it learned does not change anymore."""

    def load(self, config: Any, folders: Sequence[Path], device: torch.device | None = None) -> Predictor:
        """Load what finished folds left, as one predictor that averages them.

        Args:
            config: Of the run.
            folders: Of the folds.
            device: Where to compute; where the config says without one.

        Raises:
            CheckpointError: A file is missing, damaged or does not fit.
        """

    def share(self, config: Any, folder: Path, out: Path, train: Sequence[PlanCase]) -> None:
        """Copy what a fold learned and `load` reads, without anything that tells which cases it learned from.

        Args:
            config: Of the run.
            folder: Of the fold.
            out: Folder to write into.
            train: The fold's training cases.

        Raises:
            DataError: What was learned shows single cases.
            CheckpointError: A file is missing, damaged or does not fit.
        """

    def describe(self, config: Any, folders: Sequence[Path]) -> Mapping[str, Any]:
        """Say what the networks of folds are given and what comes out: `labels`, `input` and `output`, as plain data.

        Raises:
            CheckpointError: A file is missing or damaged.
        """

    def write_onnx(self, predictor: Any, folder: Path, study: Any, names: Sequence[str]) -> list[dict[str, Any]]:
        """Write what a predictor computes as ONNX files (see `medformer.tasks.onnx_export`).

        Args:
            predictor: Of `load`, on the CPU.
            folder: Where to.
            study: The `Study` that holds real cases to compare; None to compare made-up ones.
            names: Theirs.

        Returns:
            What the JSON files beside them say.
        """
