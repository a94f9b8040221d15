"""What a training may be steered by: the numbers that a validation gives, their names and which way is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "validation_"
"""Columns of a learning curve that hold such a number are named `validation_<name>`."""


@dataclass(frozen=True)
class ValidationMeasure:
    """A number that chooses weights and stops a training.

    Attributes:
        name: In a table of measures.
        title: As a reader sees it.
        higher: Whether more is better.
    """

    name: str
    title: str
    higher: bool = True

    @property
    def column(self) -> str:
        """The column of the learning curve that holds it."""
        return PREFIX + self.name

    def better(self, score: float, best: float | None) -> bool:
        """Whether a score beats the best so far; an equal one does not."""
        return best is None or (score > best if self.higher else score < best)

    def best(self, scores: Iterable[float]) -> float:
        """The best of at least one score."""
        return max(scores) if self.higher else min(scores)


MEASURES = {
    measure.name: measure
    for measure in (
        ValidationMeasure("dice", "Dice"),
        ValidationMeasure("auc", "AUC"),
        ValidationMeasure("accuracy", "accuracy"),
        ValidationMeasure("balanced_accuracy", "balanced accuracy"),
        ValidationMeasure("loss", "loss", higher=False),
    )
}


def measured(columns: Iterable[str]) -> ValidationMeasure | None:
    """Return the measure that a learning curve with these columns holds; None without a validation."""
    for column in columns:
        if column.startswith(PREFIX):
            name = column.removeprefix(PREFIX)
            return MEASURES.get(name, ValidationMeasure(name, name.replace("_", " ")))
    return None


def require_measure(name: str) -> ValidationMeasure:
    """Return a row of the table.

    Raises:
        ValueError: There is no such measure.
    """
    if name not in MEASURES:
        raise ValueError(f"got the validation measure {name!r}, expected one of {', '.join(MEASURES)}")
    return MEASURES[name]
