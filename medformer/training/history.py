"""The learning curve: one row per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.files import write_csv

COLUMNS = ("epoch", "steps", "lr", "train_loss", "grad_norm", "validation_dice", "best", "seconds")
"""`epoch` counts from 1; `steps` so far; `lr` of the last step; means of loss and gradient norm (before clipping) over
the epoch; `validation_dice` of the averaged weights, empty without validation; `best` is 1 where these weights were
saved; `seconds` of training and validation, the only column that differs between two equal runs."""


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole curve atomically; None becomes an empty cell."""
    write_csv(path, rows, COLUMNS)
