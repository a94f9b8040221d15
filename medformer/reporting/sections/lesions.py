"""What a clinician counts: lesions found and missed, and false alarms where there is no lesion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Section, Table, Text, counted, interval, number
from medformer.reporting.facts import Facts

UNITS = {"fp_px": "px", "fp_ml": "ml"}
PARTS = {"site": "Site", "size": "Lesion size"}


def build(facts: Facts) -> Section | None:
    """Tabulate detection per lesion, and what was marked on cases without one."""
    pooled = facts.metrics["pooled"]
    definitions = facts.metrics.get("definitions", {})
    blocks: list[Block] = []
    if isinstance(pooled.get("lesions"), Mapping):
        blocks.append(Text(_found(pooled["lesions"])))
        blocks.append(_detection(facts))
        if isinstance(definitions.get("lesions"), str):
            blocks.append(Text(f"How lesions are counted: {definitions['lesions']}."))
    if isinstance(pooled.get("negatives"), Mapping):
        blocks += _negatives(pooled["negatives"], facts.noun)
    return Section("lesions", "Lesions and false alarms", blocks) if blocks else None


def _found(lesions: Mapping[str, Any]) -> str:
    hit, true, marked = (int(lesions[name]) for name in ("hit", "true", "predicted"))
    return (
        f"Of {counted(true, 'lesion')} in the reference, {hit:,} {'was' if hit == 1 else 'were'} found and "
        f"{true - hit:,} missed; of {counted(marked, 'marked region')}, {marked - hit:,} "
        f"{'is' if marked - hit == 1 else 'are'} false."
    )


def _detection(facts: Facts) -> Table:
    rows = []
    for column, title in PARTS.items():
        for name, part in (facts.metrics.get(f"by_{column}") or {}).items():
            if isinstance(part.get("lesions"), Mapping):
                rows.append([f"{title}: {name}", *_cells(part)])
    header = [
        f"{facts.noun.capitalize()}s of",
        "Lesions",
        "Found",
        "Share found (recall)",
        "Marked regions",
        "False regions",
        "Share right (precision)",
        "F1",
        "95% interval of F1",
        f"{facts.noun.capitalize()}s missed whole",
    ]
    total = ["All", *_cells(facts.metrics["pooled"])]
    caption = "Detection per lesion, from sums over all test " + f"{facts.noun}s"
    return Table(caption, header, rows, total=total) if rows else Table(caption, header, [total], sortable=False)


def _cells(part: Mapping[str, Any]) -> list[str]:
    lesions = part["lesions"]
    return [
        f"{lesions['true']:,}",
        f"{lesions['hit']:,}",
        number(lesions["recall"]),
        f"{lesions['predicted']:,}",
        f"{lesions['predicted'] - lesions['hit']:,}",
        number(lesions["precision"]),
        number(lesions["f1"]),
        interval(lesions),
        number(part.get("missed")),
    ]


def _negatives(negatives: Mapping[str, Any], noun: str) -> list[Block]:
    count, alarmed = negatives["n"], negatives["images_with_false_positive"]
    if not count:
        return [Text(f"Every {noun} has a lesion: false alarms on {noun}s without one were not measured.")]
    text = (
        f"Of {counted(count, noun)} without a lesion, {alarmed:,} {'has' if alarmed == 1 else 'have'} something "
        f"marked: a false alarm on {100 * alarmed / count:.0f}%."
    )
    rows = []
    for name, unit in UNITS.items():
        area = negatives.get(name)
        if isinstance(area, Mapping):
            digits = 1 if unit == "px" else 3
            spread = [number(area.get(key), digits) for key in ("mean", "median", "q3")]
            rows.append([f"Marked per {noun} ({unit})", *spread, interval(area, digits)])
    header = ["What", "Mean", "Median", "Upper quartile", "95% interval of the mean"]
    return [Text(text), Table(f"{noun.capitalize()}s without a lesion", header, rows, sortable=False)]
