"""What two runs can be compared by, and which direction is better."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medformer.errors import ConfigError, UnknownNameError

Kind = Literal["segmentation", "classification"]


@dataclass(frozen=True)
class Measure:
    """A number that a run has for its cases.

    Attributes:
        name: As in the tables.
        title: As a reader sees it.
        lower_is_better: Whether the smaller number is the better one.
        column: The column whose mean over cases it is; empty when it is computed from labels and scores.
        digits: Decimals that are worth printing.
    """

    name: str
    title: str
    lower_is_better: bool = False
    column: str = ""
    digits: int = 3

    @property
    def phrase(self) -> str:
        """The measure in a sentence: `mean Dice`, `AUC`."""
        return f"mean {self.title}" if self.column else self.title


def _mean(name: str, title: str, *, lower: bool = False, digits: int = 3) -> Measure:
    return Measure(name, title, lower, column=name, digits=digits)


SEGMENTATION: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        _mean("dice", "Dice"),
        _mean("iou", "IoU"),
        _mean("sensitivity", "pixel sensitivity"),
        _mean("precision", "pixel precision"),
        _mean("hd95_px", "HD95 (px)", lower=True, digits=2),
        _mean("hd95_mm", "HD95 (mm)", lower=True, digits=2),
        _mean("nsd_px", "NSD"),
        _mean("nsd_mm", "NSD"),
        _mean("fp_px", "false-positive area (px)", lower=True, digits=1),
        _mean("fp_ml", "false-positive volume (ml)", lower=True, digits=2),
        _mean("mean_dice_256", "Dice over 256 thresholds"),
        _mean("mean_iou_256", "IoU over 256 thresholds"),
        _mean("weighted_f", "weighted F"),
        _mean("s_measure", "S-measure"),
        _mean("mae", "absolute error", lower=True, digits=4),
    )
}

CLASSIFICATION: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("auc", "AUC"),
        Measure("average_precision", "average precision"),
        Measure("accuracy", "accuracy"),
        Measure("balanced_accuracy", "balanced accuracy"),
        Measure("sensitivity", "sensitivity"),
        Measure("specificity", "specificity"),
        Measure("f1", "F1"),
        Measure("mcc", "MCC"),
        Measure("brier", "Brier score", lower_is_better=True),
        Measure("ece", "calibration error (ECE)", lower_is_better=True),
    )
}

NO_DIRECTION: Mapping[str, str] = {
    "calibration_slope": "best at 1",
    "calibration_intercept": "best at 0",
}
"""Numbers of which neither more nor less is better."""

DEFAULTS: Mapping[Kind, str] = {"segmentation": "dice", "classification": "auc"}


def kind_of(columns: Collection[str]) -> Kind:
    """Say what a table is about: a score per case is a classification."""
    return "classification" if "score" in columns else "segmentation"


def choose(kind: Kind, metric: str | None, rows: Mapping[str, Any]) -> Measure:
    """Return the measure to compare by.

    Args:
        kind: Of both tables.
        metric: Its name; the kind's default unless given.
        rows: Any row that has the columns both tables have.

    Raises:
        ConfigError: No such measure, one without a better direction, or one that the tables do not have.
    """
    known = SEGMENTATION if kind == "segmentation" else CLASSIFICATION
    name = metric or DEFAULTS[kind]
    if name in NO_DIRECTION:
        raise ConfigError(
            f"Runs are not compared by {name}: it is {NO_DIRECTION[name]}, so neither more nor less of it is better. "
            f"Compare by brier or ece, which include calibration. Known: {', '.join(known)}."
        )
    if name not in known:
        raise UnknownNameError(f"{kind} metric", name, known)
    measure = known[name]
    if measure.column and measure.column not in rows:
        there = [column for column in known if column in rows]
        raise ConfigError(
            f"The tables of the two runs do not both have a column '{measure.column}'. "
            f"Both have {', '.join(there) or 'no metric'}; choose one of these, or score both runs again."
        )
    return measure
