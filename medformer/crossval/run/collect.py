"""From the folds' predictions to the out-of-fold table, and from that table alone to every number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.crossval.plan import Fold, Plan, read_plan
from medformer.crossval.plan.strata import column_cells, require_groups
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.journal import is_complete, read_predictions, read_state
from medformer.data.seen import SEEN_FILE
from medformer.errors import ConfigError, DataError
from medformer.evaluation.subgroups import DEFINITIONS
from medformer.files import read_csv, sha256, write_json, write_text
from medformer.inference.score_table import add_curves, write_score_table
from medformer.yaml_files import read_yaml

COLUMNS_FIRST = ("id", "fold", "repeat", "group", "site", "age", "sex")
_FROM_PLAN = ("age", "sex")
TEXT_COLUMNS = frozenset({"id", "group", "site", "size", "image", "mask", "truth"})


def collect(run: RunDirectory, plan: Plan) -> Path:
    """Merge the folds' predictions.csv into oof.csv, in manifest order within each repeat.

    Returns:
        The path of oof.csv.

    Raises:
        DataError: A fold is not done, its predictions changed, or the folds have different columns.
    """
    order = {case.id: position for position, case in enumerate(plan.cases)}
    merged: dict[tuple[int, str], dict[str, Any]] = {}
    columns: list[str] = []
    for fold in plan.folds:
        folder = run.fold(fold.index)
        state = read_state(folder, fold.index, plan.digest())
        if not is_complete(folder, fold, state):
            raise DataError(
                f"Fold {fold.index} is {state.state} or its predictions changed since; expected a finished fold. "
                "Run the same command with --resume."
            )
        rows = read_predictions(folder, fold)
        found = list(rows[0]) if rows else columns
        if columns and found != columns:
            raise DataError(
                f"{folder / 'predictions.csv'} has columns {', '.join(found)}; "
                f"the folds before it have {', '.join(columns)}."
            )
        columns = found
        for row in rows:
            case = plan.cases[order[row["id"]]]
            known = {name: case.covariates[name] for name in _FROM_PLAN if name in case.covariates}
            own = {"group": case.group, "fold": fold.index, "repeat": fold.repeat}
            merged[fold.repeat, row["id"]] = {**known, **row, **own}
    keys = sorted(merged, key=lambda key: (key[0], order[key[1]]))
    if not keys:
        raise DataError("The plan has no test cases, so there is no out-of-fold table to collect.")
    present = merged[keys[0]]
    header = [name for name in COLUMNS_FIRST if name in present]
    header += [name for name in present if name not in header]
    written = write_score_table(run.oof_csv, [merged[key] for key in keys], header)
    # In the form that `sha256sum --check` reads.
    write_text(run.oof_sha256, "".join(f"{sha256(file)}  {file.name}\n" for file in written))
    return run.oof_csv


def planned_folds(run: RunDirectory) -> Sequence[Fold]:
    """The folds of a run's plan; none where it has no plan yet.

    Raises:
        ConfigError: The run is a pretraining, which has no folds.
    """
    if run.splits_json.is_file():
        return read_plan(run.splits_json).folds
    if (run.path / SEEN_FILE).is_file():
        raise ConfigError(
            f"{run.path} is a pretraining: its encoder scored no case, and is for pretraining.weights of `train` and "
            "`crossval`. Give the folder of one of these."
        )
    return ()


def tested_folds(run: RunDirectory) -> list[Fold]:
    """The folds with test cases.

    Raises:
        DataError: There are none, so that the run has no table and will have none.
    """
    tested = [fold for fold in read_plan(run.splits_json).folds if fold.test]
    if not tested:
        raise DataError(
            f"{run.path} is a training without test rows: no case was predicted, so there is nothing to report, to "
            "compare or to explain. Use `crossval`, which predicts every case, or give some rows the split 'test' and "
            "train again in another folder."
        )
    return tested


def verify_oof(run: RunDirectory) -> None:
    """Refuse a table that is not the one the run wrote; one without a recorded hash passes, and one that is missing.

    Raises:
        DataError: oof.csv was changed (names both hashes), or is missing because the run tests nobody.
        ConfigError: The run is a pretraining.
    """
    if not run.oof_csv.exists() and planned_folds(run):
        tested_folds(run)
    if not run.oof_sha256.exists() or not run.oof_csv.exists():
        return
    for line in run.oof_sha256.read_text("utf-8", errors="replace").splitlines():
        recorded, _, name = line.partition("  ")
        file = run.path / (name or run.oof_csv.name)
        found = sha256(file) if file.is_file() else ""
        if recorded != found:
            state = f"its SHA-256 is {found[:12]}" if found else "it is missing"
            raise DataError(
                f"{file} was changed after the run wrote it: {state}, the run recorded {recorded[:12]}. Numbers from "
                "an edited table are not the run's. Run the cross-validation again with --resume, which writes the "
                "table anew from the folds' predictions."
            )


def read_oof(path: Path) -> list[dict[str, Any]]:
    """Read the out-of-fold table with numbers as numbers.

    A column is numeric when each of its filled cells is, also when none is filled; empty cells are then NaN. Columns in
    `TEXT_COLUMNS` stay text, so that an id such as `007` survives.

    Raises:
        DataError: The table is missing, empty or not a table.
    """
    try:
        rows: list[dict[str, Any]] = list(read_csv(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read the out-of-fold table {path} ({error}). Run the cross-validation first."
        ) from error
    if not rows:
        raise DataError(f"The out-of-fold table {path} is empty; expected one row per case.")
    if any(None in row or None in row.values() for row in rows):
        raise DataError(f"The out-of-fold table {path} has rows with more or fewer cells than its header.")
    for column in rows[0]:
        convert = None if column in TEXT_COLUMNS else _converter([row[column] for row in rows])
        if convert:
            for row in rows:
                row[column] = convert(row[column])
    return rows


def write_metrics(
    run: RunDirectory, summarize: Callable[..., Mapping[str, Any]], *, subgroups: Sequence[str] = ()
) -> Path:
    """Write metrics.json from oof.csv alone, with the table's hash; the same table gives the same bytes.

    Args:
        run: Holds the table.
        summarize: Of `medformer.evaluation.summary`.
        subgroups: Columns of the plan's cases that split the numbers too.

    Returns:
        The path of metrics.json.
    """
    rows = read_oof(run.oof_csv)
    add_curves(run.oof_csv, rows)
    summary = summarize(rows, covariates=_cells(run, rows, subgroups)) if subgroups else summarize(rows)
    write_json(run.metrics_json, {"source": {"file": run.oof_csv.name, "sha256": sha256(run.oof_csv)}, **summary})
    return run.metrics_json


def named_subgroups(run: RunDirectory) -> tuple[str, ...]:
    """The columns that a run's config names; none where it says nothing of them, as those of earlier versions do."""
    content = read_yaml(run.config_yaml)
    section = content.get("report") if isinstance(content, Mapping) else None
    named = section.get("subgroups") if isinstance(section, Mapping) else None
    return tuple(map(str, named)) if isinstance(named, list) else ()


def _cells(run: RunDirectory, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, list[str]]:
    """Columns of the cases of a table; those that split every table anyway are left out."""
    cases = read_plan(run.splits_json).cases
    require_groups(cases, columns)
    cells = {name: dict(zip((case.id for case in cases), column_cells(cases, name), strict=True)) for name in columns}
    return {name: [of[row["id"]] for row in rows] for name, of in cells.items() if name not in DEFINITIONS}


def _converter(cells: Sequence[str]) -> Callable[[str], float | int] | None:
    filled = [cell for cell in cells if cell]
    try:
        for cell in filled:
            float(cell)
    except ValueError:
        return None
    if len(filled) == len(cells) and all(re.fullmatch(r"-?[0-9]{1,18}", cell) for cell in cells):
        return int
    return lambda cell: float(cell) if cell else float("nan")
