"""What two tables of scores are compared by, and which number is better."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from medformer.crossval.compare.columns import STRUCTURE, canonical_column
from medformer.crossval.compare.pairs import Pairs
from medformer.errors import ConfigError, UnknownNameError
from medformer.evaluation.metrics import CLASSES, LABEL_MAPS, MASKS, PRIMARY, Metric
from medformer.evaluation.table import numbers

Better = Literal["higher", "lower"]
"""Which number of a column is better."""


def choose_metric(pairs: Pairs, name: str | None, direction: Better | None) -> Metric:
    """Return the metric of this name, or the one that stands for tables of this kind.

    Raises:
        ConfigError: No such metric, one without a better direction, one that the tables do not both have, or a
            direction that is not known or not that of the metric.
    """
    table = CLASSES if pairs.kind == "classification" else MASKS
    known = [metric.name for metric in table.values() if metric.comparable]
    there = [column for column in map(str, pairs.a[0]) if column in pairs.b[0] and column not in STRUCTURE]
    name = _usual(pairs, there) if name is None else name if name in there else canonical_column(name)
    if name in table and table[name].direction == "target":
        raise ConfigError(
            f"Runs are not compared by {name}: it is best at {table[name].target:g}, so neither more nor less of it is "
            f"better. Compare by brier or ece, which include calibration. Known: {', '.join(known)}."
        )
    metric = table[name] if name in known else _of_label(name)
    if metric is None and name not in there:
        raise UnknownNameError(f"{pairs.kind} metric", name, {*known, *there})
    if metric is not None and metric.per_case and name not in there:
        listed = ", ".join([column for column in there if column in known] or there)
        raise ConfigError(
            f"The tables of the two runs do not both have a column '{name}'. "
            f"Both have {listed or 'no metric'}; choose one of these, or score both again."
        )
    if metric is None:
        return _unknown(pairs, name, direction)
    if direction is not None and (direction == "lower") != metric.lower_is_better:
        right = "lower" if metric.lower_is_better else "higher"
        raise ConfigError(f"--{direction}-is-better: of {metric.label}, {right} is better. Leave the option out.")
    return metric


def _usual(pairs: Pairs, there: list[str]) -> str:
    """The metric that stands for tables of this kind, or the only column of numbers."""
    usual = PRIMARY[pairs.kind]
    if pairs.kind == "classification" or usual in there:
        return usual
    numeric = [name for name in there if all(isinstance(row[name], (int, float)) for row in (*pairs.a, *pairs.b))]
    if len(numeric) == 1:
        return numeric[0]
    raise ConfigError(
        f"{pairs.left.table} and {pairs.right.table} have no common column `{usual}`, and "
        f"{', '.join(numeric) or 'no other'} with numbers. Say what to compare by with --metric NAME."
    )


def _of_label(name: str) -> Metric | None:
    """The metric of one label of a volume, such as `dice:liver`; None for any other name."""
    base, colon, label = name.partition(":")
    if not colon or base not in LABEL_MAPS:
        return None
    return replace(LABEL_MAPS[base], name=name, label=f"{LABEL_MAPS[base].label} of {label}")


def _unknown(pairs: Pairs, name: str, direction: Better | None) -> Metric:
    """A column of numbers that no metric is named after."""
    if direction is None:
        raise ConfigError(
            f"Which number of '{name}' is better is not known. Say --higher-is-better or --lower-is-better."
        )
    values = [abs(value) for rows in (pairs.a, pairs.b) for value in numbers(rows, name) if math.isfinite(value)]
    largest = max(values, default=1.0)
    digits = min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest else 3
    return Metric(name, name, "", "mask", direction=direction, digits=digits)
