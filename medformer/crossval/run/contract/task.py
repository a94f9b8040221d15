"""A task opens a study, and loads, shares, describes and exports what the folds of its runs left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from medformer.crossval.plan import PlanCase
from medformer.crossval.run.contract.learner import Predictor
from medformer.crossval.run.contract.study import Study
from medformer.progress import Reporter


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
