"""Where it works and where it does not: by lesion size and by site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Figure, Section, Table, Text, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures import forest
from medformer.reporting.results import HEADER, cells, with_policy

STRATA = {"size": "Lesion size", "site": "Site"}


def build(facts: Facts) -> Section | None:
    """Tabulate and draw Dice per stratum."""
    blocks: list[Block] = []
    definitions = facts.metrics.get("definitions", {})
    for column, title in STRATA.items():
        parts: Mapping[str, Any] = facts.metrics.get(f"by_{column}", {})
        if not parts:
            continue
        names = definitions.get(column, {})
        labels = {name: f"{name} ({names[name]})" if name in names else name for name in parts}
        drawn = [name for name, part in parts.items() if number(part["metrics"]["dice"]["mean"]) != "–"]
        if len(drawn) > 1:
            blocks.append(_figure(facts, column, title, {name: parts[name] for name in drawn}))
        rows = [[labels[name], *cells(part)] for name, part in parts.items()]
        blocks.append(Table(with_policy(f"Results by {title.lower()}", facts.metrics), [title, *HEADER], rows))
    if not blocks:
        return None
    blocks.append(Text("A dash means too few images or groups to compute the number. Small strata say little."))
    return Section("strata", "By lesion size and site", blocks)


def _figure(facts: Facts, column: str, title: str, parts: Mapping[str, Any]) -> Figure:
    dice = {name: part["metrics"]["dice"] for name, part in parts.items()}
    nan = float("nan")
    rows = [
        (f"{name} (n = {parts[name]['n']})", part["mean"], _or(part.get("low"), nan), _or(part.get("high"), nan))
        for name, part in dice.items()
    ]
    whole = facts.metrics["pooled"]["metrics"]["dice"]["mean"]
    alt = f"Mean Dice by {title.lower()}: " + "; ".join(
        f"{name} {number(part['mean'])}, interval {interval(part)}" for name, part in dice.items()
    )
    caption = (
        f"{title}: mean Dice with its 95% interval; the dashed line is the mean over all images ({number(whole)})."
    )
    return Figure(forest(f"by-{column}", rows, xlabel="mean Dice", reference=whole), f"{alt}.", caption)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
