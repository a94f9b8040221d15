"""The checklist of a report: which items of the reporting guidelines the files of a run answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.paper.items import ITEMS, Item
from medformer.reporting.paper.statements import PLACEHOLDER

Answer = Literal["filled", "in part", "open"]


@dataclass(frozen=True)
class Row:
    """An item with its answer.

    Attributes:
        topic: In our own words.
        numbers: Guideline and number, of each guideline that applies.
        answer: `filled` by the run, filled `in part`, or `open`.
        said: What the run says.
        must: What the author must write or add.
    """

    topic: str
    numbers: Mapping[str, Sequence[str]]
    answer: Answer
    said: Markup
    must: str

    @property
    def asks(self) -> str:
        """How `must` begins."""
        return "You must add" if self.said else "You must say"


CLAIM, TRIPOD = "CLAIM 2024", "TRIPOD+AI"

SOURCES = {
    CLAIM: "imaging AI; Tejani et al., doi:10.1148/ryai.240300",
    TRIPOD: "prediction models; Collins et al., doi:10.1136/bmj-2023-078378",
}


def checklist_facts(run: FinishedRun, statements: Mapping[str, Markup]) -> dict[str, Any]:
    """What the templates of a checklist are given."""
    parts = checklist(run, statements)
    return {"parts": parts, "counts": counts(parts), "sources": SOURCES}


def checklist(run: FinishedRun, statements: Mapping[str, Markup]) -> dict[str, list[Row]]:
    """Answer every item that applies, by part of a paper.

    TRIPOD+AI is about models that predict an outcome of a person, so it applies to classifications alone.

    Args:
        run: The run.
        statements: What it can say, by name (`statements_of`).
    """
    found = {
        part: [row for item in items if (row := _row(item, statements, with_tripod=run.classification)).numbers]
        for part, items in ITEMS.items()
    }
    return {part: rows for part, rows in found.items() if rows}


def counts(parts: Mapping[str, Sequence[Row]]) -> dict[str, dict[Answer, int]]:
    """How many numbers of each guideline have each answer."""
    found: dict[str, dict[Answer, int]] = {}
    for rows in parts.values():
        for row in rows:
            for guideline, numbers in row.numbers.items():
                of_it = found.setdefault(guideline, {"filled": 0, "in part": 0, "open": 0})
                of_it[row.answer] += len(numbers)
    return found


def _row(item: Item, statements: Mapping[str, Markup], *, with_tripod: bool) -> Row:
    numbers = {CLAIM: (item.claim,) if item.claim else (), TRIPOD: item.tripod if with_tripod else ()}
    said = Markup(" ").join(statements[name] for name in item.says if statements[name])
    must = item.must if said else item.otherwise or item.must or "what this run has not recorded."
    answer: Answer = "open" if not said else "in part" if must or PLACEHOLDER in said else "filled"
    return Row(item.topic, {name: found for name, found in numbers.items() if found}, answer, said, must)
