"""Where it works and where it does not: by site, lesion size, sex and age."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Figure, Section, Table, Text, interval, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import forest
from medformer.reporting.results import cells, header, headline, is_classification, primary, span, value

TITLES = {"site": "Site", "size": "Lesion size", "sex": "Sex", "age": "Age"}


def build(facts: Facts) -> Section | None:
    """Tabulate and draw the primary metric per subgroup, sites first."""
    blocks: list[Block] = []
    for column, title in TITLES.items():
        parts: Mapping[str, Any] = facts.metrics.get(f"by_{column}") or {}
        if not parts:
            continue
        drawn = {name: part for name, part in parts.items() if number(value(part, primary(facts.metrics))) != "–"}
        if len(drawn) > 1:
            blocks.append(_figure(facts, column, title, drawn))
        rows = [[name, *cells(facts.metrics, part)] for name, part in parts.items()]
        blocks.append(Table(f"Results by {title.lower()}", [title, *header(facts.metrics, facts.noun)], rows))
        meanings = facts.metrics.get("definitions", {}).get(column)
        if isinstance(meanings, Mapping):
            known = [f"{name} is {meanings[name]}" for name in parts if name in meanings]
            blocks.append(Text(f"{title}: {'; '.join(known)}."))
        elif isinstance(meanings, str) and "unknown" in parts:
            blocks.append(Text(f"{title}: {meanings}."))
    if not blocks:
        return None
    reason = "one class is missing" if is_classification(facts.metrics) else "there is nothing to average"
    blocks.append(
        Text(
            f"A dash means that there are too few cases or groups to compute the number, or that {reason}. Small "
            "subgroups say little, and among many subgroups some differ by chance."
        )
    )
    return Section("subgroups", "Sites and subgroups", blocks)


def _figure(facts: Facts, column: str, title: str, parts: Mapping[str, Any]) -> Figure:
    name = primary(facts.metrics)
    rows = [
        (f"{part_name} (n = {part['n']})", value(part, name), *span(part, name)) for part_name, part in parts.items()
    ]
    whole = value(facts.metrics["pooled"], name)
    what = headline(facts.metrics)
    sentence = what[0].upper() + what[1:]
    alt = f"{sentence} by {title.lower()}: " + "; ".join(
        f"{part_name} {number(value(part, name))}, interval {interval(part['metrics'].get(name))}"
        for part_name, part in parts.items()
    )
    caption = (
        f"{title}: {what} with its 95% interval; the dashed line is the number over all {facts.noun}s "
        f"({number(whole)})."
    )
    return Figure(forest(f"by-{column}", rows, xlabel=what, reference=whole), f"{alt}.", caption)
