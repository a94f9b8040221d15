"""The table of metrics: what each number is called, what it means, which direction is better, and how it is spelled.

Case rows, summaries, comparisons, the form of metrics.json, the report and the model card all read this table. A name
can stand in several of its parts: `sensitivity` counts pixels of a mask, voxels of a label, and patients of a
classification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["segmentation", "classification"]
"""What a run, and its metrics.json, is about."""

Direction = Literal["higher", "lower", "target"]
"""Which number is better; with `target`, the one nearest to `Metric.target`."""

Place = Literal["metrics", "negatives", "block", ""]
"""Where a block of metrics.json holds a metric: below one of these keys, or in the block itself (`block`)."""

BINS = 10
"""Of the calibration error, equally wide over [0, 1]; each holds its lower edge, the last one also its upper edge."""

NEAREST = 1e-6
"""A score nearer to 0 or 1 counts as this near, so that the logit of a saturated score is finite."""

VALIDATION_PREFIX = "validation_"
"""A column of a learning curve that holds a metric of the inner validation part is named `validation_<name>`."""


@dataclass(frozen=True)
class Metric:
    """One number that a task is judged by.

    Attributes:
        name: In tables and files.
        label: As a reader sees it, in the middle of a sentence.
        definition: What it means, as a phrase without a final period.
        scored: What is scored: the mask of an image or volume, a volume of several labels, or the class of a case.
        direction: Which number is better.
        target: The best number of a metric whose direction is `target`.
        unit: Of the number; empty for a share or a score without one.
        digits: Decimals that are worth printing.
        per_case: Whether every case has one, and all cases have their mean; others exist for all cases together.
        place: Where metrics.json holds it; empty when it does not.
        hub_name: What model hubs call it; empty when they know no such metric.
        rests_on: The cases whose groups the interval of a class metric rests on; `both` compares the classes.
    """

    name: str
    label: str
    definition: str
    scored: Literal["mask", "label map", "class"]
    direction: Direction = "higher"
    target: float | None = None
    unit: str = ""
    digits: int = 3
    per_case: bool = True
    place: Place = "metrics"
    hub_name: str = ""
    rests_on: Literal["all", "positives", "negatives", "both"] = "both"

    @property
    def title(self) -> str:
        """The label at the beginning of a sentence, or above a column."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def phrase(self) -> str:
        """What all cases together have, in a sentence: `mean Dice`, `AUC`."""
        return f"mean {self.label}" if self.per_case else self.label

    @property
    def lower_is_better(self) -> bool:
        """Whether the smaller number is the better one."""
        return self.direction == "lower"

    @property
    def comparable(self) -> bool:
        """Whether two runs can be compared by it: it has a better direction, and tables of scores tell it."""
        return self.direction != "target" and self.place != "block"

    @property
    def validation_column(self) -> str:
        """The column of a learning curve that holds it."""
        return VALIDATION_PREFIX + self.name

    def better(self, score: float, best: float | None) -> bool:
        """Whether a score beats the best so far; an equal one does not."""
        return best is None or (score < best if self.lower_is_better else score > best)

    def best(self, scores: Iterable[float]) -> float:
        """The best of at least one score."""
        return min(scores) if self.lower_is_better else max(scores)


Table = Mapping[str, Metric]
"""Metrics by name, in the order in which they are listed."""


_HD95 = (
    "95th percentile of the distances ({unit}) between the outlines of prediction and reference, the larger of both "
    "directions; lower is better. Where exactly one of them {empty} it is the diagonal of the {whole}: read the median "
    "beside the mean"
)
_NSD = (
    "normalized surface Dice: share of the points of both outlines that lie within the tolerance of the other outline"
)

_LABEL_MAP = {
    "dice": "twice the shared volume over the sum of predicted and reference volume",
    "iou": "shared volume over the volume that either covers",
    "sensitivity": "share of the reference's voxels that were marked; left out where the reference lacks the label",
    "precision": "share of the marked voxels that belong to the reference; left out where nothing was marked",
    "hd95_mm": _HD95.format(unit="mm", empty="is empty", whole="volume"),
    "nsd_mm": _NSD,
}


def _mask(name: str, label: str, definition: str, **more: Any) -> Metric:
    return Metric(name, label, definition, "mask", **more)


def _class(name: str, label: str, definition: str, **more: Any) -> Metric:
    return Metric(name, label, definition, "class", per_case=False, **more)


def _table(*metrics: Metric) -> Table:
    return {metric.name: metric for metric in metrics}


MASKS = _table(
    _mask(
        "dice",
        "Dice",
        "twice the shared area over the sum of predicted and reference area, where a pixel is predicted when its "
        "probability reaches the threshold",
        hub_name="dice",
    ),
    _mask(
        "iou", "IoU", "shared area over the area that either mask covers, at the same threshold", hub_name="mean_iou"
    ),
    _mask(
        "sensitivity",
        "pixel sensitivity",
        "share of the reference's pixels that were marked; it does not count lesions, and images with an "
        "empty reference are left out",
        hub_name="recall",
    ),
    _mask(
        "precision",
        "pixel precision",
        "share of the marked pixels that belong to the reference; images without a marked pixel are left out",
    ),
    _mask(
        "hd95_px",
        "HD95 (px)",
        _HD95.format(unit="px", empty="has no outline", whole="image"),
        direction="lower",
        unit="px",
        digits=2,
    ),
    _mask(
        "hd95_mm",
        "HD95 (mm)",
        _HD95.format(unit="mm", empty="has no outline", whole="image"),
        direction="lower",
        unit="mm",
        digits=2,
    ),
    _mask("nsd_px", "NSD (px)", _NSD),
    _mask("nsd_mm", "NSD (mm)", _NSD),
    _mask(
        "mean_dice_256",
        "Dice over 256 thresholds",
        "PraNet protocol: Dice averaged over 256 thresholds of the map stretched to 0..1, so that no "
        "threshold is chosen",
    ),
    _mask("mean_iou_256", "IoU over 256 thresholds", "PraNet protocol: IoU averaged over the same thresholds"),
    _mask(
        "weighted_f",
        "weighted F",
        "PraNet protocol: F-measure (beta 1) of the stretched map that weighs errors by their distance from "
        "the reference (Margolin et al., CVPR 2014)",
    ),
    _mask(
        "s_measure",
        "S-measure",
        "PraNet protocol: structure measure (alpha 0.5), how alike map and reference are by region and by "
        "object (Fan et al., ICCV 2017)",
    ),
    _mask(
        "mae",
        "MAE",
        "PraNet protocol: mean absolute difference of stretched map and reference per pixel, lower is better",
        direction="lower",
        digits=4,
    ),
    _mask(
        "max_e",
        "max E-measure",
        "PraNet protocol: E-measure, how alike the masks are by pixel and as a whole (Fan et al., IJCAI 2018): "
        "averaged over images at each of 256 thresholds, the highest of these averages",
        per_case=False,
        place="block",
    ),
    _mask("mean_e", "mean E-measure", "PraNet protocol: the mean of these averages", per_case=False, place="block"),
    _mask(
        "fp_px",
        "false-positive area (px)",
        "pixels marked on an image without a lesion; lower is better",
        direction="lower",
        unit="px",
        digits=1,
        place="negatives",
    ),
    _mask(
        "fp_ml",
        "false-positive volume (ml)",
        "milliliters marked on a volume without a lesion; lower is better",
        direction="lower",
        unit="ml",
        digits=2,
        place="negatives",
    ),
)
"""Of the mask of an image or volume."""

_VOXELS = {"sensitivity": "voxel sensitivity", "precision": "voxel precision"}

LABEL_MAPS = {
    name: replace(MASKS[name], scored="label map", definition=definition, label=_VOXELS.get(name, MASKS[name].label))
    for name, definition in _LABEL_MAP.items()
}
"""Of one label of a volume, and of the mean over its labels."""

CLASSES = _table(
    _class(
        "auc",
        "AUC",
        "area under the ROC curve: how often a positive case scores higher than a negative one, ties counting half",
        hub_name="roc_auc",
    ),
    _class(
        "average_precision",
        "average precision",
        "area under the precision-recall curve as a sum of steps; a score without information gives "
        "the share of positives",
        hub_name="average_precision",
    ),
    _class(
        "accuracy", "accuracy", "share of cases decided rightly at the threshold", hub_name="accuracy", rests_on="all"
    ),
    _class(
        "balanced_accuracy", "balanced accuracy", "mean of sensitivity and specificity", hub_name="balanced_accuracy"
    ),
    _class(
        "sensitivity",
        "sensitivity",
        "share of positive cases that were called positive",
        hub_name="recall",
        rests_on="positives",
    ),
    _class("specificity", "specificity", "share of negative cases that were called negative", rests_on="negatives"),
    _class("f1", "F1", "harmonic mean of sensitivity and precision", hub_name="f1"),
    _class(
        "mcc",
        "MCC",
        "Matthews correlation of decision and label, 0 when all cases are decided alike",
        hub_name="matthews_correlation",
    ),
    _class(
        "brier",
        "Brier score",
        "mean squared difference of score and label, lower is better",
        direction="lower",
        hub_name="brier_score",
        rests_on="all",
    ),
    _class(
        "calibration_slope",
        "calibration slope",
        "slope of the label's log odds on the score's logit (Cox 1958); 1 is right, below 1 the "
        f"scores are too extreme; scores are kept {NEAREST:g} away from 0 and 1",
        direction="target",
        target=1.0,
    ),
    _class(
        "calibration_intercept",
        "calibration intercept",
        "calibration in the large: what has to be added to the score's logit, with the "
        "slope held at 1; 0 is right, above 0 the scores are too low on the whole",
        direction="target",
        target=0.0,
    ),
    _class(
        "ece",
        "calibration error (ECE)",
        f"expected calibration error: mean distance between score and share of positives over {BINS} equally wide "
        "bins of the score, weighted by cases; lower is better",
        direction="lower",
        rests_on="all",
    ),
)
"""Of a score and a decision per case; positive is label 1."""

PRIMARY: Mapping[Kind, str] = {"segmentation": "dice", "classification": "auc"}
"""The metric that stands for a run where there is room for one, by the `kind` of its metrics.json."""

_STEERING = _table(
    MASKS["dice"],
    *(CLASSES[name] for name in ("auc", "accuracy", "balanced_accuracy")),
    Metric("loss", "loss", "loss of the inner validation part", "class", "lower", per_case=False, place=""),
)
"""What may choose the weights of a training and stop it."""


def in_summary(table: Table, place: Place = "metrics") -> Table:
    """The metrics of a table that a block of metrics.json holds in one place."""
    return {name: metric for name, metric in table.items() if metric.place == place}


def table_of(summary: Mapping[str, Any]) -> Table:
    """The table of metrics that the numbers of a metrics.json belong to."""
    if summary["kind"] == "classification":
        return CLASSES
    return {**MASKS, **LABEL_MAPS} if summary.get("by_label") else MASKS


def validation_metric(name: str) -> Metric:
    """Return the metric that steers a training.

    Raises:
        ValueError: None of this name may.
    """
    if name not in _STEERING:
        raise ValueError(f"got the validation metric {name!r}, expected one of {', '.join(_STEERING)}")
    return _STEERING[name]


def validation_metric_of(columns: Iterable[str]) -> Metric | None:
    """Return the metric that a learning curve with these columns holds; None without a validation."""
    for column in columns:
        if column.startswith(VALIDATION_PREFIX):
            name = column.removeprefix(VALIDATION_PREFIX)
            known = {**MASKS, **CLASSES, **_STEERING}
            return known.get(name, Metric(name, name.replace("_", " "), "", "class", per_case=False, place=""))
    return None
