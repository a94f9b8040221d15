"""From rows to the numbers of a report: pooled, and per fold, repeat, site and other subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation import subgroups
from medformer.evaluation.masks.summary import summarize_labels, summarize_masks
from medformer.evaluation.metrics import CLASSES, table_of
from medformer.evaluation.number_format import PLAIN
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.evaluation.table import Contents, Row, distinct, group_names, has, has_groups, numbers

FORMAT = "medformer-metrics/1"


NOTHING = "nothing"
"""What the intervals of a summary are over whose cases may all be of one patient: there are none."""


def summarize(
    rows: Sequence[Row],
    bootstrap: Bootstrap = DEFAULT,
    *,
    covariates: Mapping[str, Sequence[Any]] | None = None,
    strangers: bool = True,
) -> dict[str, Any]:
    """Summarize a scored table, in memory or as read back from CSV: both give the same numbers.

    A table with a column `score` is a classification, any other a segmentation. Every interval, that of the AUC too, is
    a bootstrap over groups: whole groups are drawn, with all their rows of all repeats.

    Args:
        rows: One per case and repeat, in any order: of `medformer.evaluation.masks.segmentation.case_row`, of
            `medformer.evaluation.masks.volumes.volume_row`, or with `label`, `score` and `prediction`. Optional
            columns: `fold`, `repeat`, `site`, `size`, `sex` and `age` split the summary
            (`medformer.evaluation.subgroups`); `group` names the patient or sequence for the intervals,
            without it `strangers` decides.
        bootstrap: Level and draws of the intervals.
        covariates: Further columns that split the summary, one cell for each row.
        strangers: Cases of a table without groups count as patients of their own; else they count as one group, because
            they could all be of one patient, and there are no intervals.

    Returns:
        The content of metrics.json, which `medformer.evaluation.schema` describes field by field. What cannot be
        computed is NaN.

    Raises:
        DataError: No rows, a missing column, a cell that is no number, or rows scored under different rules.
    """
    if not rows:
        raise DataError("There are no scored cases to summarize; expected at least one row.")
    classified = has(rows, "score")
    grouped = has_groups(rows)
    groups = group_names(rows) if grouped or strangers else [""] * len(rows)
    found = _summarize_classes(rows, bootstrap) if classified else summarize_masks(rows, bootstrap)
    labels = summarize_labels(rows, groups, bootstrap)
    parts = subgroups.splits(rows)
    further = {name: subgroups.covariate_parts(cells) for name, cells in (covariates or {}).items()}
    cases = "cases" if classified else "volumes" if labels else "frames"
    unit = "" if grouped else cases if strangers else NOTHING

    def block(selected: NDArray[np.intp]) -> dict[str, Any]:
        chosen = [groups[index] for index in selected]
        whole = {"n": len(chosen), "groups": len(set(chosen))}
        return whole | {key: value for part in found.parts for key, value in part(selected, chosen).items()}

    return {
        "format": FORMAT,
        "kind": "classification" if classified else "segmentation",
        "n": len(rows),
        **({"resampled": unit} if unit else {}),
        **found.head,
        "definitions": {
            **found.definitions,
            **{name: text for name, text in subgroups.DEFINITIONS.items() if name in parts},
            **({"covariate": subgroups.COVARIATE} if further else {}),
            "interval": _over(bootstrap, unit),
        },
        "pooled": block(np.arange(len(rows))),
        **({"by_label": labels} if labels else {}),
        **{
            f"by_{column}": {name: block(selected) for name, selected in split.items()}
            for column, split in parts.items()
        },
        **(
            {
                "by_covariate": {
                    column: {name: block(selected) for name, selected in split.items()}
                    for column, split in further.items()
                }
            }
            if further
            else {}
        ),
    }


def _over(bootstrap: Bootstrap, unit: str) -> str:
    if not unit:
        return bootstrap.over("groups")
    if unit == NOTHING:
        return "none: nobody says whose the cases are, so all could be of one patient"
    drawn = bootstrap.over(f"{unit}, not patients")
    return (
        f"{drawn}. No groups are known, so every one of the {unit} counts as a patient of its own: where several are "
        "of one patient, intervals are too narrow"
    )


def _summarize_classes(rows: Sequence[Row], bootstrap: Bootstrap) -> Contents:
    """Read the columns of a table of classified cases once.

    Args:
        rows: One per case and repeat, with `label`, `score` and `prediction`.
        bootstrap: Level and draws of the intervals.

    Raises:
        DataError: A column is missing, a cell is no number or not in its range, or the scores are decisions.
    """
    # scikit-learn takes a second to import, which a segmentation need not wait for.
    from medformer.evaluation.classes.classification import check_scored, classification_metrics
    from medformer.evaluation.classes.intervals import classification_intervals

    columns = (numbers(rows, name) for name in ("label", "score", "prediction"))
    scored = check_scored(*columns, ids=[str(row.get("id", "A row")) for row in rows])

    def part(selected: NDArray[np.intp], groups: Sequence[str]) -> dict[str, Any]:
        label, score, prediction = (column[selected] for column in scored)
        values = classification_metrics(label, score, prediction, part=True)
        intervals = classification_intervals(label, score, prediction, groups, bootstrap, values=values)
        return {
            "positives": int(label.sum()),
            "metrics": {name: {"value": value, **intervals[name].to_json()} for name, value in values.items()},
        }

    thresholds = distinct(rows, "threshold") if has(rows, "threshold") else []
    definitions = {"metrics": {name: metric.definition for name, metric in CLASSES.items()}}
    return Contents({"thresholds": thresholds}, definitions, [part])


def headline(metrics: Mapping[str, Any]) -> str:
    """The number that stands for a run, with its interval, from what metrics.json holds."""
    pooled = metrics["pooled"]
    name = "auc" if metrics["kind"] == "classification" else "dice"
    metric, found = table_of(metrics)[name], pooled["metrics"][name]
    value = PLAIN.number(found.get("mean", found.get("value")), metric.digits)
    interval = PLAIN.interval(found.get("low"), found.get("high"), metric.digits, reason=found.get("no_interval", ""))
    spread = f" (95% interval {interval})" if interval != PLAIN.missing else ""
    return (
        f"{metric.label} {value}{spread} over {pooled['n']} test cases, each predicted by a network that was not "
        "trained on it in this run"
    )
