"""Did pretraining learn anything? What was hidden is reconstructed better than by the mean of the training subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medformer.reporting.blocks import Block, Figure, Notice, Section, Table, Text, counted, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures import forest

TITLE = "Masked pretraining"
WHAT = {"edges": "single connections", "regions": "all connections of some regions"}


def build(facts: Facts) -> Section | None:
    """Tabulate the reconstruction error per fold beside that of predicting the mean."""
    records = facts.pretraining
    if not records:
        return None
    settings = facts.config.get("pretraining", {})
    hidden = WHAT.get(str(settings.get("mask")), "connections")
    ratio = settings.get("ratio")
    share = f" ({100 * ratio:.0f}%)" if isinstance(ratio, (int, float)) else ""
    text = (
        f"Before it was trained to classify, each fold's network was trained to reconstruct {hidden}{share} that were "
        "hidden from it, on the fold's training subjects, without their labels. The error below is on the inner "
        "validation part, whose subjects took no part in that; the explained share is what the network takes off the "
        "error of predicting, for each connection, its mean over the training subjects."
    )
    atlases = list(dict.fromkeys(atlas for record in records.values() for atlas in record.get("atlases", {})))
    several = atlases if len(atlases) > 1 else []
    rows = [_row(f"{index}", record, several) for index, record in records.items()]
    pooled = _pool(list(records.values()), atlases)
    header = ["Fold", "Subjects", "Error, network", "Error, mean connection", "Explained"]
    table = Table(
        "Mean squared error on hidden connections",
        [*header, *(f"Explained, {atlas}" for atlas in several)],
        rows,
        total=_row("All", pooled, several) if len(rows) > 1 else (),
    )
    whole = explained(pooled)
    blocks: list[Block] = [Text(text)]
    worse = [index for index, record in records.items() if explained(record) <= 0]
    if worse:
        blocks.append(
            Notice(
                "warning",
                f"In {counted(len(worse), 'fold')} of {len(records)} the network is no better than the mean connection:"
                " pretraining taught it nothing there. Try more epochs or another learning rate.",
            )
        )
    else:
        blocks.append(
            Notice(
                "ok",
                f"The network explains {100 * whole:.1f}% of what the mean connection does not, and is better than it "
                f"in {'every fold' if len(records) > 1 else 'the only fold'}.",
            )
        )
    if len(rows) > 1:
        blocks.append(_figure(records, whole))
    return Section("pretraining", TITLE, [*blocks, table])


def explained(record: Mapping[str, Any]) -> float:
    """1 - error / error of the mean connection; 0 where the mean has no error."""
    mean = float(record["mean_edge_mse"])
    return 1 - float(record["masked_mse"]) / mean if mean > 0 else 0.0


def _row(name: str, record: Mapping[str, Any], atlases: Sequence[str]) -> list[str]:
    parts = [_percent(explained(record["atlases"][atlas])) if atlas in record["atlases"] else "–" for atlas in atlases]
    errors = [number(float(record[key]), 4) for key in ("masked_mse", "mean_edge_mse")]
    return [name, number(record.get("subjects")), *errors, _percent(explained(record)), *parts]


def _pool(records: Sequence[Mapping[str, Any]], atlases: Sequence[str]) -> dict[str, Any]:
    """Errors over the hidden connections of all folds."""

    def mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        weights = [float(part.get("hidden") or 1) for part in parts]
        return {
            key: sum(weight * float(part[key]) for weight, part in zip(weights, parts, strict=True)) / sum(weights)
            for key in ("masked_mse", "mean_edge_mse")
        }

    return {
        **mean(records),
        "subjects": sum(int(record.get("subjects") or 0) for record in records),
        "atlases": {
            atlas: mean([record["atlases"][atlas] for record in records if atlas in record.get("atlases", {})])
            for atlas in atlases
        },
    }


def _figure(records: Mapping[int, Mapping[str, Any]], whole: float) -> Figure:
    nan = float("nan")
    rows = [(f"fold {index}", max(0.0, explained(record)), nan, nan) for index, record in records.items()]
    values = ", ".join(f"{label} {number(value)}" for label, value, *_ in rows)
    caption = (
        "Explained share of the hidden connections per fold; 0 is what the mean connection does, 1 is a perfect "
        f"reconstruction, and the dashed line is all folds together ({number(whole)})."
    )
    svg = forest("pretraining", rows, xlabel="explained share", reference=max(0.0, whole))
    return Figure(svg, f"Explained share per fold: {values}.", caption)


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)}%"
