"""The learning curve: one row per epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.evaluation.metrics import Metric
from medformer.files import write_csv, write_text

_BEFORE = ("epoch", "steps", "lr", "train_loss", "grad_norm")
_AFTER = ("best", "seconds")


def history_columns(measure: Metric | None) -> tuple[str, ...]:
    """Return the columns of a learning curve.

    `epoch` counts from 1; `steps` so far; `lr` of the last step; means of loss and gradient norm (before clipping) over
    the epoch; `validation_<measure>` of the averaged weights, absent without validation; `best` is 1 where these
    weights were kept; `seconds` of training and validation, the only column that differs between two equal runs.
    """
    return (*_BEFORE, *((measure.validation_column,) if measure else ()), *_AFTER)


def write_history(path: Path, rows: Sequence[Mapping[str, Any]], measure: Metric | None) -> None:
    """Write the whole curve atomically, to a CSV file and beside it, one JSON object per line, to a `.jsonl` file.

    None becomes an empty cell in the one and null in the other.
    """
    columns = history_columns(measure)
    write_csv(path, rows, columns)
    lines = [json.dumps({name: row.get(name) for name in columns}, allow_nan=False) for row in rows]
    write_text(path.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))
