"""Everything a training needs to go on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medformer.errors import CheckpointError
from medformer.tensor_file import describe_difference, read_tensors, shapes, write_tensors
from medformer.training.ema import WeightAverage
from medformer.training.optimizer import load_optimizer_tensors, optimizer_tensors

FORMAT = 1


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


def save_state(
    path: Path,
    progress: Progress,
    identity: Mapping[str, Any],
    model: nn.Module,
    average: WeightAverage,
    optimizer: Optimizer,
) -> None:
    """Write the state atomically: the former one stays until the new one is complete.

    Random states are not stored: order, augmentation, scale and dropout derive from (seed, epoch, step). Of a finished
    training nothing but its progress is stored, because nobody trains these tensors on, and they are several times as
    large as the weights.

    Args:
        path: A `.safetensors` file.
        progress: Where the training stands.
        identity: What must be the same on resume; JSON-able.
        model: The weights under training.
        average: Their average.
        optimizer: Its moments.

    Raises:
        ResourceError: The disk is full or the folder not writable.
    """
    tensors = {} if progress.finished else _group(model.state_dict(), average.state(), optimizer_tensors(optimizer))
    write_tensors(path, tensors, {"format": FORMAT, "identity": dict(identity), "progress": asdict(progress)})


def load_state(
    path: Path, identity: Mapping[str, Any], model: nn.Module, average: WeightAverage, optimizer: Optimizer
) -> Progress:
    """Restore a state in place and return where the training stands; a finished one leaves the model as it is.

    Raises:
        CheckpointError: The file is damaged, or belongs to another model, config or data.
    """
    advice = "Restore it from a copy, or delete it (or use --overwrite) to train this part from its beginning."
    try:
        tensors, metadata = read_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"Cannot resume: {error} {advice}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"Cannot resume from {path}: its format is {metadata.get('format')!r}, expected {FORMAT}. {advice}"
        )
    changes = _changes(metadata.get("identity", {}), identity)
    known = {entry.name for entry in fields(Progress)}
    progress = Progress(**{name: value for name, value in metadata.get("progress", {}).items() if name in known})
    expected, found = shapes(_group(model.state_dict(), average.state(), {})), shapes(tensors)
    moments = {name: shape for name, shape in found.items() if name.startswith("optimizer.")}
    if not progress.finished and (difference := describe_difference(found, {**expected, **moments})):
        changes.append(f"tensors differ ({difference})")
    if changes:
        raise CheckpointError(
            f"Cannot resume from {path}: it belongs to another training: {'; '.join(changes)}. "
            f"Run with the settings it was started with. {advice}"
        )
    if not progress.finished:
        with torch.no_grad():
            for name, tensor in model.state_dict(keep_vars=True).items():
                tensor.copy_(tensors[f"model.{name}"])
        average.load(_part(tensors, "average."))
        load_optimizer_tensors(optimizer, _part(tensors, "optimizer."))
    return progress


def _group(
    model: Mapping[str, Tensor], average: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    parts = {"model": model, "average": average, "optimizer": moments}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


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
