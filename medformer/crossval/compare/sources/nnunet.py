"""What nnU-Net (version 2) leaves of its validations: `fold_*/validation/summary.json`, or a single summary.json.

Isensee et al., nnU-Net, Nature Methods 2021; nnU-Net's `evaluate_predictions.py` writes the file. Labels are named
after the `dataset.json` beside the folds where there is one. As in our tables, the Dice of a case is the mean over its
labels; a label that neither reference nor prediction holds has none (NaN) and is left out of it.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from medformer.crossval.compare.scores import Scores, by_key, kind_of
from medformer.data.case_names import posix_name, without_ending
from medformer.data.folders import natural_order
from medformer.errors import DamagedFileError, DataError
from medformer.evaluation.masks.volumes import label_column, label_names
from medformer.files import read_json
from medformer.records import Content, Table, checked

SUMMARY = "summary.json"
_ADVICE = "Run nnU-Net's validation again, which writes the file anew."
_NAMES = {"Dice": "dice", "IoU": "iou"}

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class _Of(Content):
    Dice: Number
    IoU: Number
    n_ref: float = math.nan


class _Case(Content):
    metrics: dict[str, _Of]
    prediction_file: str


class _Summary(Content):
    metric_per_case: list[_Case]


class _Dataset(Content):
    labels: Table


def nnunet_summaries(path: Path) -> dict[str, Path]:
    """The summaries at a path, by the name of their fold, which is empty for one without folds; none elsewhere."""
    if path.is_file():
        return {"": path} if path.name == SUMMARY else {}
    folds = sorted(path.glob(f"fold_*/validation/{SUMMARY}"), key=lambda file: natural_order(file.parts[-3]))
    if folds:
        return {file.parts[-3].removeprefix("fold_"): file for file in folds}
    single = [path / SUMMARY, path / "validation" / SUMMARY]
    return next(({"": file} for file in single if file.is_file()), {})


def nnunet_scores(path: Path) -> Scores:
    """Read the scores of one trainer's folder, of one fold, or of a folder of evaluated predictions.

    Raises:
        DataError: A summary is damaged, two have other labels, a case is in two of them, or the only fold is `all`,
            which validates on the cases that it was trained on.
    """
    summaries = nnunet_summaries(path)
    if list(summaries) == ["all"] or path.name == "fold_all":
        raise DataError(
            f"{path} holds `fold_all` alone, which nnU-Net trains on all cases and validates on the same cases: its "
            "scores say nothing about new ones. Train folds 0 to 4, and give the folder that holds them."
        )
    folded = {name: file for name, file in summaries.items() if name != "all"}
    names = _label_names(path)
    rows: list[dict[str, Any]] = []
    for fold, file in folded.items():
        rows += [{**row, **({"fold": fold} if fold else {})} for row in _rows(file, names)]
    if not rows:
        raise DataError(f"{path}: no summary lists a case; expected `metric_per_case` with at least one. {_ADVICE}")
    if other := next((row for row in rows if list(row) != list(rows[0])), None):
        raise DataError(
            f"{path}: '{rows[0]['id']}' has {_listed(rows[0])}, '{other['id']}' {_listed(other)}; expected the same "
            f"labels in every case of one task. {_ADVICE}"
        )
    if any(math.isnan(value) for row in rows for name, value in row.items() if name.startswith("dice:")):
        rows = [{**row, "empty_policy": "nan"} for row in rows]
    # The draws of a bootstrap follow the order of the rows, which is to be that of a single summary.
    rows.sort(key=lambda row: natural_order(row["id"]))
    table = str(next(iter(folded.values()))) if len(folded) == 1 else str(path)
    keyed = by_key(rows, table)
    found = Scores(path, table, kind_of(rows[0]), keyed, _ADVICE)
    return found.labelled({key: row["fold"] for key, row in keyed.items()}) if "fold" in rows[0] else found


def _rows(file: Path, names: Mapping[str, str]) -> list[dict[str, Any]]:
    try:
        # nnU-Net writes NaN where a label is in neither map.
        content = read_json(file)
    except (DamagedFileError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error} {_ADVICE}") from None
    if isinstance(content, Mapping) and "results" in content and "metric_per_case" not in content:
        raise DataError(
            f"{file} is of nnU-Net version 1; expected that of version 2. Score its predictions with `medformer volume "
            "evaluate`, and compare the folder that this writes."
        )
    rows = []
    for case in checked(content, _Summary, file, _ADVICE).metric_per_case:
        labels = {names.get(key, _spelled(key)): found for key, found in case.metrics.items() if key != "0"}
        if not labels:
            raise DataError(f"{file}: '{case.prediction_file}' has no label. {_ADVICE}")
        row: dict[str, Any] = {"id": without_ending(posix_name(case.prediction_file).rpartition("/")[2])}
        for theirs, ours in _NAMES.items():
            row[ours] = _mean([getattr(found, theirs) for found in labels.values()])
            row |= {label_column(ours, label): getattr(found, theirs) for label, found in labels.items()}
        row |= {label_column("truth_voxels", label): found.n_ref for label, found in labels.items()}
        rows.append(row)
    return rows


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(label_names([row])) + (f" (fold {row['fold']})" if "fold" in row else "")


def _label_names(path: Path) -> dict[str, str]:
    """The name of each key of a summary, from the dataset.json of the trainer's folder."""
    places = [path, *path.absolute().parents[:3]]
    file = next((place / "dataset.json" for place in places if (place / "dataset.json").is_file()), None)
    if file is None:
        return {}
    labels = checked(read_json(file), _Dataset, file, "Restore it, or remove it.").labels
    return {_key(value): str(name) for name, value in labels.items() if isinstance(value, (int, list))}


def _key(value: Any) -> str:
    """How a summary spells a label or a region: `1`, or `(1, 2)`."""
    return str(tuple(value)) if isinstance(value, list) else str(value)


def _spelled(key: str) -> str:
    try:
        values = ast.literal_eval(key)
    except (SyntaxError, ValueError):
        return key
    return f"labels {', '.join(map(str, values))}" if isinstance(values, tuple) else f"label {values}"


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
