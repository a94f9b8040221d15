"""What two runs can be compared by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from medformer.errors import ConfigError, UnknownNameError
from medformer.evaluation.metrics import CLASSES, MASKS, Metric

Kind = Literal["segmentation", "classification"]

DEFAULTS: Mapping[Kind, str] = {"segmentation": "dice", "classification": "auc"}


def kind_of(columns: Collection[str]) -> Kind:
    """Say what a table is about: a score per case is a classification."""
    return "classification" if "score" in columns else "segmentation"


def choose(kind: Kind, name: str | None, rows: Mapping[str, Any]) -> Metric:
    """Return the metric to compare by.

    Args:
        kind: Of both tables.
        name: Its name; the kind's default unless given.
        rows: Any row that has the columns both tables have.

    Raises:
        ConfigError: No such metric, one without a better direction, or one that the tables do not have.
    """
    table = CLASSES if kind == "classification" else MASKS
    known = [row.name for row in table.values() if row.comparable]
    name = name or DEFAULTS[kind]
    if name in table and table[name].direction == "target":
        raise ConfigError(
            f"Runs are not compared by {name}: it is best at {table[name].target:g}, so neither more nor less of it is "
            f"better. Compare by brier or ece, which include calibration. Known: {', '.join(known)}."
        )
    if name not in known:
        raise UnknownNameError(f"{kind} metric", name, known)
    if table is MASKS and name not in rows:
        there = [column for column in known if column in rows]
        raise ConfigError(
            f"The tables of the two runs do not both have a column '{name}'. "
            f"Both have {', '.join(there) or 'no metric'}; choose one of these, or score both runs again."
        )
    return table[name]
