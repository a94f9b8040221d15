"""A finished run or a bundle as something that predicts: what it learned, for which task, and who it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medformer.config import SCHEMAS
from medformer.config_loading import load_config
from medformer.crossval.bundle import is_bundle, open_bundle
from medformer.crossval.plan import PlanCase, read_plan
from medformer.crossval.run.collect import planned_folds
from medformer.crossval.run.contract import Predictor
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import read_config
from medformer.crossval.run.start.seen import SEEN_BY_BUNDLE, Seen, seen_by_bundle, seen_by_fold
from medformer.errors import ConfigError
from medformer.files import digest, sha256
from medformer.tasks import get_task
from medformer.training.banks import require_unremembered

_LEARNED = ("model.safetensors", "threshold.json", "components.json", "plan.json")
_FURTHER = ("columns.json", "features/*.safetensors", "members/*/model.safetensors")
"""What the predictions of a fold follow from, besides the config; the second as far as it is there."""


@dataclass(frozen=True)
class Trained:
    """What predicts new cases.

    Attributes:
        path: The folder that was opened.
        task: Name of its task.
        config: Of the training; its type is the task's.
        folders: Of the folds that have learned, at least one; each holds one member of the ensemble.
        made_by: SHA-256 of what predicts, for tables of predictions.
        note: What a user must know of it, such as that folds are missing; empty without anything.
        known_cases: The cases that it was drawn from, of which each network has seen a part; None where it does not
            say, as a bundle does not.
        scores: Table of the known cases' scores by networks that have not seen them; None where there is none.
    """

    path: Path
    task: str
    config: Any
    folders: tuple[Path, ...]
    made_by: str
    note: str = ""
    known_cases: tuple[PlanCase, ...] | None = None
    scores: Path | None = None

    def seen_files(self) -> frozenset[str]:
        """SHA-256 of the images that its networks have seen in training, as far as it says so.

        Raises:
            CheckpointError: The record of it is damaged.
        """
        if self.known_cases is None:
            found = seen_by_bundle(self.path / SEEN_BY_BUNDLE, self.path.name)
        else:
            found, run = Seen(), RunDirectory.open(self.path)
            for fold in planned_folds(run):
                if run.fold(fold.index) in self.folders:
                    found = found.plus(seen_by_fold(run, fold, self.path.name))
        return frozenset(case.hashes["file"] for case in found.cases if "file" in case.hashes)

    def load(self, device: torch.device | None = None) -> Predictor:
        """Load the ensemble of its networks; see `Task.load`.

        Raises:
            CheckpointError: A file is missing, damaged or does not fit.
        """
        return get_task(self.task).load(self.config, self.folders, device)


def open_trained(path: Path, task: str | None = None) -> Trained:
    """Open what a finished run learned, or a bundle of it.

    Args:
        path: The folder of the run or of the bundle.
        task: The only task that will do; any without it.

    Raises:
        ConfigError: Neither, one of another task, a run whose config was changed, or no network of it is finished.
        DataError: A file of the run is damaged; any file of the bundle was edited, or a newer version wrote it.
        LeakageError: The memory of a fold's network holds a case that this fold tests.
    """
    if is_bundle(path):
        bundle = open_bundle(path, task)
        return Trained(bundle.path, bundle.record.task, bundle.config, bundle.folders, made_by=bundle.record.made_by)
    run, config = open_run(path, task)
    folds = planned_folds(run)
    last = get_task(config.task).last_file(config)
    learned = [fold for fold in folds if (run.fold(fold.index) / last).is_file()]
    for fold in learned:
        require_unremembered(run.fold(fold.index), fold.parts)
    folders = tuple(run.fold(fold.index) for fold in learned)
    if not folders:
        raise ConfigError(f"{run.path} holds no finished network. Finish the run with --resume first.")
    missing = f"{len(folders)} of {len(folds)} folds are trained; finish {run.path} with --resume to use them all."
    return Trained(
        run.path,
        config.task,
        config,
        folders,
        made_by=predictor_hash(run.config_yaml, folders),
        note=missing if len(folders) < len(folds) else "",
        known_cases=read_plan(run.splits_json).cases,
        scores=run.oof_csv if run.oof_csv.exists() else None,
    )


def open_run(path: Path, task: str | None = None) -> tuple[RunDirectory, Any]:
    """Open a run, of one task or of any, and its config.

    Raises:
        ConfigError: Not a run, one of another task, or its config was changed.
        DataError: A file of the run is damaged.
    """
    run = RunDirectory.open(path)
    found = run.record()["task"]
    if task is not None and found != task:
        raise ConfigError(f"{path} is a run of the task {found}; this command works on runs of `medformer {task}`.")
    get_task(found)
    read_config(run)
    return run, load_config(run.config_yaml, [], model=SCHEMAS[found])


def predictor_hash(config: Path, folders: Sequence[Path]) -> str:
    """SHA-256 of what predicts: a config file, and everything that the folds of these folders learned."""
    learned = []
    for folder in folders:
        hashes = [sha256(folder / name) if (folder / name).is_file() else "" for name in _LEARNED]
        further = sorted(file for pattern in _FURTHER for file in folder.glob(pattern))
        learned.append([folder.name, *hashes, *map(sha256, further)])
    return digest([sha256(config), learned])
