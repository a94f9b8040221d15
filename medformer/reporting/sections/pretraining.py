"""Did pretraining learn anything? What was hidden is reconstructed better than by a guess that learned nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medformer.reporting.blocks import Block, Figure, Notice, Section, Table, Text, counted, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import forest

TITLE = "Masked pretraining"
EDGES = {"edges": "single connections", "regions": "all connections of some regions"}


@dataclass(frozen=True)
class Guess:
    """What the network is held against.

    Attributes:
        key: Its error in a record.
        name: In a table's header and after "the".
        rule: How it comes about.
        hidden: What is hidden, in the plural.
        units: What was reconstructed from, in the plural, and the key of its count in a record.
    """

    key: str
    name: str
    rule: str
    hidden: str
    units: str

    def explained(self, record: Mapping[str, Any]) -> float:
        """1 - error / error of the guess; 0 where the guess has no error."""
        guess = float(record[self.key])
        return 1 - float(record["masked_mse"]) / guess if guess > 0 else 0.0


GUESSES = (
    Guess(
        "mean_edge_mse",
        "mean connection",
        "for each connection, its mean over the training subjects",
        "connections",
        "subjects",
    ),
    Guess(
        "mean_visible_mse",
        "mean visible voxel",
        "for each hidden voxel, the mean of the visible ones of its patch",
        "voxels",
        "patches",
    ),
    Guess(
        "mean_visible_mse",
        "mean visible pixel",
        "for each hidden pixel, the mean of the visible ones of its frame",
        "pixels",
        "frames",
    ),
)


def build(facts: Facts) -> Section | None:
    """Tabulate the reconstruction error per fold beside that of the guess."""
    records = facts.pretraining
    guess = next(
        (guess for guess in GUESSES if all({guess.key, guess.units} <= record.keys() for record in records.values())),
        None,
    )
    if not records or guess is None:
        return None
    text = (
        f"Before it was trained on labels, each fold's network was trained to reconstruct {_hidden(facts, guess)} that "
        f"were hidden from it, on the fold's training {facts.noun}s, without their labels. The error below is on the "
        f"inner validation part, whose {facts.noun}s took no part in that; the explained share is what the network "
        f"takes off the error of predicting, {guess.rule}."
    )
    atlases = list(dict.fromkeys(atlas for record in records.values() for atlas in record.get("atlases", {})))
    several = atlases if len(atlases) > 1 else []
    rows = [_row(f"{index}", record, guess, several) for index, record in records.items()]
    pooled = _pool(list(records.values()), guess, atlases)
    header = ["Fold", guess.units.capitalize(), "Error, network", f"Error, {guess.name}", "Explained"]
    table = Table(
        f"Mean squared error on hidden {guess.hidden}",
        [*header, *(f"Explained, {atlas}" for atlas in several)],
        rows,
        total=_row("All", pooled, guess, several) if len(rows) > 1 else (),
    )
    whole = guess.explained(pooled)
    blocks: list[Block] = [Text(text)]
    worse = [index for index, record in records.items() if guess.explained(record) <= 0]
    if worse:
        blocks.append(
            Notice(
                "warning",
                f"In {counted(len(worse), 'fold')} of {len(records)} the network is no better than the {guess.name}: "
                "pretraining taught it nothing there. Try more epochs or another learning rate.",
            )
        )
    else:
        blocks.append(
            Notice(
                "ok",
                f"The network explains {100 * whole:.1f}% of what the {guess.name} does not, and is better than it "
                f"in {'every fold' if len(records) > 1 else 'the only fold'}.",
            )
        )
    if len(rows) > 1:
        blocks.append(_figure(records, guess, whole))
    return Section("pretraining", TITLE, [*blocks, table])


def _hidden(facts: Facts, guess: Guess) -> str:
    settings = facts.config.get("pretraining", {})
    ratio = settings.get("ratio")
    share = f" ({100 * ratio:.0f}%)" if isinstance(ratio, (int, float)) else ""
    if guess.key == "mean_visible_mse":
        return f"blocks of {guess.hidden}{share}"
    return EDGES.get(str(settings.get("mask")), guess.hidden) + share


def _row(name: str, record: Mapping[str, Any], guess: Guess, atlases: Sequence[str]) -> list[str]:
    parts = [
        _percent(guess.explained(record["atlases"][atlas])) if atlas in record["atlases"] else "–" for atlas in atlases
    ]
    errors = [number(float(record[key]), 4) for key in ("masked_mse", guess.key)]
    return [name, number(record.get(guess.units)), *errors, _percent(guess.explained(record)), *parts]


def _pool(records: Sequence[Mapping[str, Any]], guess: Guess, atlases: Sequence[str]) -> dict[str, Any]:
    """Errors over what was hidden in all folds."""

    def mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        weights = [float(part.get("hidden") or 1) for part in parts]
        return {
            key: sum(weight * float(part[key]) for weight, part in zip(weights, parts, strict=True)) / sum(weights)
            for key in ("masked_mse", guess.key)
        }

    return {
        **mean(records),
        guess.units: sum(int(record.get(guess.units) or 0) for record in records),
        "atlases": {
            atlas: mean([record["atlases"][atlas] for record in records if atlas in record.get("atlases", {})])
            for atlas in atlases
        },
    }


def _figure(records: Mapping[int, Mapping[str, Any]], guess: Guess, whole: float) -> Figure:
    nan = float("nan")
    rows = [(f"fold {index}", max(0.0, guess.explained(record)), nan, nan) for index, record in records.items()]
    values = ", ".join(f"{label} {number(value)}" for label, value, *_ in rows)
    caption = (
        f"Explained share of the hidden {guess.hidden} per fold; 0 is what the {guess.name} does, 1 is a perfect "
        f"reconstruction, and the dashed line is all folds together ({number(whole)})."
    )
    svg = forest("pretraining", rows, xlabel="explained share", reference=max(0.0, whole))
    return Figure(svg, f"Explained share per fold: {values}.", caption)


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)}%"
