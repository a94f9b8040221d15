"""What a training is asked to do, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Required, TypedDict

from torch import nn

from medformer.config.shared import TrainingConfig, Workers
from medformer.data.network_inputs import TrainingData
from medformer.evaluation.metrics import Metric, validation_metric
from medformer.training.losses.objectives import Objective

WEIGHTS = "model.safetensors"
"""What a training leaves in its folder: its best weights."""


class Validate(Protocol):
    """Scores a model on the inner validation part.

    The model is in evaluation mode and holds the averaged weights; gradients are off. With several processes the
    validation must be picklable: an object of a class at module level, without closures.
    """

    @property
    def measure(self) -> str:
        """What the score is: a name that `medformer.evaluation.metrics.validation_metric` knows."""

    def __call__(self, model: nn.Module, /) -> float:
        """Return the score."""


class RunOptions(TypedDict, total=False):
    """The keywords of a training that say where and how it runs.

    Attributes:
        out: Folder of this training; made if missing. Without `resume`, files of an earlier training in it are removed.
        seed: Decides order, dropout and what the objective draws. The model's first weights are the caller's to seed.
        workers: Loader processes; see `BatchSource`.
        resume: Go on from the state in `out`; start from the beginning if there is none yet.
        metadata: JSON-able values kept beside the weights and required to be the same on resume: name the model's
            config and the data's digest here.
        trainings: How many trainings like this one the run still has, this one included; for the time that it says. 0:
            that was said already.
        run: Folder of the whole run, when `out` is a part of it, such as a fold: trackers name the training by its
            place in it and keep there what all parts share.
    """

    out: Required[Path]
    seed: Required[int]
    workers: Workers
    resume: bool
    metadata: Mapping[str, Any]
    run: Path | None
    trainings: int


@dataclass(frozen=True)
class Job:
    """Everything that decides a training.

    Attributes:
        objective: What the network is trained for.
        data: The training cases.
        validate: None trains to the end and keeps the last weights.
        config: How to train.
        out, seed, workers, resume, metadata, run, trainings: See `RunOptions`.
    """

    objective: Objective
    data: TrainingData
    validate: Validate | None
    config: TrainingConfig
    out: Path
    seed: int
    workers: Workers = 0
    resume: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    trainings: int = 1

    @property
    def name(self) -> str:
        """What trackers call this training: its place in the run, such as `folds/2`."""
        if self.run is None or self.run == self.out or not self.out.is_relative_to(self.run):
            return self.out.resolve().name
        return self.out.relative_to(self.run).as_posix()

    @property
    def measure(self) -> Metric | None:
        """What the validation gives; None without one."""
        return None if self.validate is None else validation_metric(self.validate.measure)

    @property
    def weights(self) -> Path:
        """The best averaged weights (the last ones without validation)."""
        return self.out / WEIGHTS

    @property
    def state(self) -> Path:
        """What a resume continues from."""
        return self.out / "state.safetensors"

    @property
    def loading(self) -> Path:
        """How many loader processes were chosen, where that was left to the training."""
        return self.out / "loading.json"

    @property
    def history(self) -> Path:
        """The learning curve; `history.jsonl` beside it holds the same."""
        return self.out / "history.csv"

    def identity(self, model: nn.Module) -> dict[str, Any]:
        """What must not change between a stop and its resume; where the numbers are computed may."""
        # What training starts from is named by its hash, in the metadata, and not by where it lies.
        changes_nothing = {"accelerator", "compile", "strategy", "tracker", "save_minutes"}
        changes_nothing |= {"init_from", "hours", "give_up"}
        training = self.config.model_dump(mode="json", exclude=changes_nothing)
        identity = {
            "training": training,
            "seed": self.seed,
            "cases": len(self.data),
            **self.objective.identity(),
            "network": type(model).__name__,
            "validation": self.measure.name if self.measure else None,
            "metadata": dict(self.metadata),
        }
        # As it will read back: a tuple becomes a list.
        return dict(json.loads(json.dumps(identity)))


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        weights: Safetensors file of the weights to use.
        best: Their validation score; None without validation.
        best_epoch: The epoch they are from, counted from 1.
        epochs: Epochs trained.
        updates: Optimizer steps.
        seconds: Time spent, over all sessions.
        ended: Why it ended: "epochs", "patience" or "minutes".
        history: Rows of `history.csv`.
    """

    weights: Path
    best: float | None
    best_epoch: int
    epochs: int
    updates: int
    seconds: float
    ended: str
    history: tuple[Mapping[str, Any], ...]
