"""What a training writes: its best weights, everything to go on from, and its learning curve.

The weights are in `model.safetensors`, which says of itself what it is; `load_model` reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from medformer.config import AugmentConfig
from medformer.config.shared import ModelConfig, TrainingConfig
from medformer.errors import CheckpointError
from medformer.evaluation.metrics import Metric
from medformer.files import write_csv, write_text
from medformer.models.weights.loading import trained_with
from medformer.tensor_file import (
    copy_tensors,
    describe_difference,
    read_metadata,
    read_tensors,
    shapes,
    write_tensors,
)
from medformer.training.job import WEIGHTS, Job
from medformer.training.optimizer import WeightAverage, load_optimizer_tensors, optimizer_tensors

__all__ = ["load_model", "read_metadata"]


def load_model(path: Path, model: nn.Module, expected: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Load weights into a model of the same architecture and return the file's metadata.

    Args:
        path: A `.safetensors` file that a training wrote.
        model: Every tensor of it is replaced; nothing is changed when loading fails.
        expected: Metadata that must agree, such as `{"architecture": "meta_polyp/caformer_s18"}`.

    Raises:
        CheckpointError: The file is missing, damaged, a pickle, of another architecture, or holds NaN.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    # As it reads back: a tuple becomes a list.
    wanted = json.loads(json.dumps(dict(expected or {})))
    claims = [
        f"{key} is {metadata.get(key)!r}, expected {value!r}"
        for key, value in wanted.items()
        if metadata.get(key) != value
    ]
    difference = describe_difference(shapes(tensors), shapes(model.state_dict()))
    if claims or difference:
        told = trained_with(metadata)
        raise CheckpointError(
            f"{path} does not fit this {type(model).__name__}: {'; '.join([*claims, *filter(None, [difference])])}. "
            + (
                f"It was trained with {told}. Set the same, or take other weights."
                if told
                else "Choose the model section that the weights were trained with, or other weights."
            )
        )
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise CheckpointError(f"{path} holds NaN or infinity in '{name}', expected finite weights. Train again.")
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(tensors[name])
    return metadata


def copy_weights(folder: Path, out: Path) -> None:
    """Copy the weights of a training. Of what the file says of itself, only what the network is for comes along.

    The rest names the cases, if only by a hash, and settings that the config holds too.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    copy_tensors(folder / WEIGHTS, out / WEIGHTS, keep=("task", "target", "purpose"))


FORMAT = 1
SETTINGS_SINCE = {"training": ("encoder_lr", "clip_by"), "model": ("frozen",), "augment": ("scaling",)}
"""Settings, by section of the config, that states of this format need not have."""
_ADVICE = "Restore it from a copy, or delete it (or use --overwrite) to train this part from its beginning."


@dataclass
class Progress:
    """Where a training stands, in plain values.

    Attributes:
        epoch: Epochs completed.
        step: Steps done of the epoch under way; the batches before it are skipped on resume.
        updates: Steps done in all.
        taken: Steps that changed the weights (float16 leaves some out), which the weight average counts.
        rate: Learning rate of the last step.
        elapsed: Seconds spent.
        epoch_start: `elapsed` when the epoch under way began.
        loss_sum: Sum of the epoch's batch losses so far.
        norm_sum: Sum of the epoch's finite gradient norms so far.
        norm_count: How many of these there were.
        best: Best validation score; None before the first validation.
        best_epoch: Epoch of the saved weights, counted from 1; 0 before the first.
        finished: Why the run is over: "epochs", "patience" or "minutes"; empty while it is not.
        history: Rows of the learning curve.
        scaler: The float16 loss scaler's values; empty in other precisions.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    taken: int = 0
    rate: float = 0.0
    elapsed: float = 0.0
    epoch_start: float = 0.0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    norm_count: int = 0
    best: float | None = None
    best_epoch: int = 0
    finished: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Saving:
    """Writes and reads the state of a training, and writes its best weights, at most every `config.save_minutes`.

    Between two writes the best weights wait in memory. They are written just before the state that knows of them: after
    a crash at any moment the state on disk is that of some complete epoch, the weights beside it are its best ones or
    later ones, and a resumed training computes the later ones again.

    Args:
        job: Says where and how often.
        model: The weights under training.
        average: Their average, which is what is kept.
        optimizer: Its moments are part of the state.
    """

    job: Job
    model: nn.Module
    average: WeightAverage
    optimizer: Optimizer

    def __post_init__(self) -> None:
        self._identity = self.job.identity(self.model)
        self._best: dict[str, Tensor] | None = None
        self._about: dict[str, Any] = {}
        self._written_at = 0.0

    def mark(self, elapsed: float) -> None:
        """Note, in every process, that what is on disk is as of `elapsed` seconds after the training's beginning."""
        self._written_at = elapsed

    def keep(self, about: Mapping[str, Any]) -> None:
        """Remember the present average as the best weights, with what is written beside them."""
        with self.average.applied():
            state = self.model.state_dict()
            self._best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._about = dict(about)

    def due(self, elapsed: float) -> bool:
        """Whether enough time has passed since the last write."""
        return elapsed - self._written_at >= 60.0 * self.job.config.save_minutes

    def write_weights(self) -> None:
        """Write the best weights if they are not on disk yet."""
        if self._best is not None:
            write_tensors(self.job.weights, self._best, self._about)
            self._best = None

    def write(self, progress: Progress) -> None:
        """Write the best weights, then the state, atomically: the former one stays until the new one is complete.

        Random states are not stored: order, augmentation, scale and dropout derive from (seed, epoch, step). Of a
        finished training nothing but its progress is stored, because no training continues from these tensors, and
        they are several times as large as the weights.

        Raises:
            ResourceError: The disk is full or the folder not writable.
        """
        self.write_weights()
        tensors = {} if progress.finished else self._tensors(optimizer_tensors(self.optimizer))
        content = {"format": FORMAT, "identity": self._identity, "progress": asdict(progress)}
        write_tensors(self.job.state, tensors, content)

    def load(self) -> Progress:
        """Restore the state on disk in place and return where the training stands.

        A finished training leaves the model as it is.

        Raises:
            CheckpointError: The file is damaged, or belongs to another model, config or data.
        """
        path = self.job.state
        try:
            tensors, metadata = read_tensors(path)
        except CheckpointError as error:
            raise CheckpointError(f"Cannot resume: {error} {_ADVICE}") from error
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"Cannot resume from {path}: its format is {metadata.get('format')!r}, expected {FORMAT}. {_ADVICE}"
            )
        changes = _changes(_completed(metadata.get("identity", {}), self._identity), self._identity)
        try:
            progress = TypeAdapter(Progress).validate_python(metadata.get("progress", {}))
        except ValidationError as error:
            raise CheckpointError(f"Cannot resume from {path}: it does not say where it stands. {_ADVICE}") from error
        expected, found = shapes(self._tensors({})), shapes(tensors)
        moments = {name: shape for name, shape in found.items() if name.startswith("optimizer.")}
        if not progress.finished and (difference := describe_difference(found, {**expected, **moments})):
            changes.append(f"tensors differ ({difference})")
        if changes:
            raise CheckpointError(
                f"Cannot resume from {path}: it belongs to another training: {'; '.join(changes)}. "
                f"Run with the settings it was started with. {_ADVICE}"
            )
        if not progress.finished:
            with torch.no_grad():
                for name, tensor in self.model.state_dict(keep_vars=True).items():
                    tensor.copy_(tensors[f"model.{name}"])
            self.average.load(_part(tensors, "average."))
            load_optimizer_tensors(self.optimizer, _part(tensors, "optimizer."))
        return progress

    def _tensors(self, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = {"model": self.model.state_dict(), "average": self.average.state(), "optimizer": moments}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def history_columns(measure: Metric | None) -> tuple[str, ...]:
    """Return the columns of a learning curve.

    `epoch` counts from 1; `steps` so far; `lr` of the last step; means of loss and gradient norm (before clipping) over
    the epoch; `validation_<measure>` of the averaged weights, absent without validation; `best` is 1 where these
    weights were kept; `seconds` of training and validation, the only column that differs between two equal runs.
    """
    scored = (measure.validation_column,) if measure else ()
    return ("epoch", "steps", "lr", "train_loss", "grad_norm", *scored, "best", "seconds")


def write_history(path: Path, rows: Sequence[Mapping[str, Any]], measure: Metric | None) -> None:
    """Write the whole curve atomically, to a CSV file and beside it, one JSON object per line, to a `.jsonl` file.

    None becomes an empty cell in the one and null in the other.
    """
    columns = history_columns(measure)
    write_csv(path, rows, columns)
    lines = [json.dumps({name: row.get(name) for name in columns}, allow_nan=False) for row in rows]
    write_text(path.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _completed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add to an identity the settings that older code did not know: their defaults mean what it did."""
    defaults = {"training": TrainingConfig(), "model": ModelConfig(), "augment": AugmentConfig()}
    completed = dict(old)
    for section, keys in SETTINGS_SINCE.items():
        given, now = old.get(section), new.get(section)
        if isinstance(given, Mapping) and isinstance(now, Mapping):
            known = defaults[section].model_dump(mode="json", include=set(keys) & now.keys())
            completed[section] = {**known, **given}
    if isinstance(old.get("metadata"), Mapping):
        completed["metadata"] = _completed(old["metadata"], new["metadata"])
    return completed


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every value that differs, as `training.lr was 0.001, now 0.0003`."""
    result: list[str] = []
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            result += _changes(was, now, f"{prefix}{key}.")
        elif was != now:
            result.append(f"{prefix}{key} was {was!r}, now {now!r}")
    return result
