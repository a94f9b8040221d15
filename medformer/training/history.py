"""The learning curve: one row per epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.files import write_csv, write_text

COLUMNS = ("epoch", "steps", "lr", "train_loss", "grad_norm", "validation_dice", "best", "seconds")
"""`epoch` counts from 1; `steps` so far; `lr` of the last step; means of loss and gradient norm (before clipping) over
the epoch; `validation_dice` of the averaged weights, empty without validation; `best` is 1 where these weights were
saved; `seconds` of training and validation, the only column that differs between two equal runs."""


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole curve atomically, to a CSV file and beside it, one JSON object per line, to a `.jsonl` file.

    None becomes an empty cell in the one and null in the other.
    """
    write_csv(path, rows, COLUMNS)
    lines = [json.dumps({name: row.get(name) for name in COLUMNS}, allow_nan=False) for row in rows]
    write_text(path.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))
