"""A study: the cases of one task under one config, and what a run asks about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast

from torch import nn

from medformer.config import AnyConfig
from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.run.contract.learner import Learner, NetworkLearner
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
from medformer.models.backbone.mixers import MIXERS, SEVERAL_DEVICES, mixer_name
from medformer.progress import Reporter
from medformer.training.devices import check_devices
from medformer.training.pace import Pace
from medformer.training.trackers.build import build_tracker

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
        if self.config.training.devices > 1:
            for spec in (*(self.config.model.mixers or ()), getattr(self.config.model, "mixer", "identity")):
                MIXERS.require(mixer_name(spec), SEVERAL_DEVICES)
        build_tracker(self.config.training.tracker, Path(), Path())
        wanted = self.config.pretraining
        if self.config.training.init_from and (wanted.enabled or wanted.weights):
            key, off = ("weights", "''") if wanted.weights else ("enabled", "false")
            raise ConfigError(
                f"training.init_from and pretraining.{key} both say what training starts from, and a trained network "
                f"has its encoder already. Add pretraining.{key}={off}, or leave init_from out."
            )

    def trial(self) -> tuple[Callable[[], nn.Module], Any] | None:
        """What tells whether a lower precision computes the same (see `bfloat16_parity`); None where none is tried.

        Returns:
            What builds a network as a fold does, each time the same, and a batch for it.
        """
        return None

    @abstractmethod
    def check_start(self, start: Start) -> None:
        """Refuse a network to start from (`training.init_from`) of which hardly anything fits, before any case is read.

        Raises:
            ConfigError: Hardly anything fits; says how the two networks differ.
            CheckpointError: Its files are damaged.
        """

    def check_training(self, fold: Fold, learner: Any) -> None:
        """Refuse settings that cannot train in a fold, before a run begins.

        Args:
            fold: That with the smallest training part.
            learner: Of these cases, as `learner` makes it.

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
        """What tells each case apart from those of other runs: its id and group, hashes of its data, what it shows."""
        comparison, found = self.comparison, []
        for case in self.cases:
            record = inventory[case.id]
            hashes = {kind: record.hashes[kind] for kind in comparison.hashes if kind in record.hashes}
            shows = record.arrays.get("descriptor") if comparison.between_runs else None
            found.append(SeenCase(case.id, case.group, hashes, descriptor=shows))
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
