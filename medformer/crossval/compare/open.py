"""Opening what a user names to be compared: each kind of table has a file in `medformer.crossval.compare.sources`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medformer.crossval.compare.folds import with_folds
from medformer.crossval.compare.scores import Scores
from medformer.crossval.compare.sources.evaluated import evaluated_scores, is_evaluated
from medformer.crossval.compare.sources.nnunet import nnunet_scores, nnunet_summaries
from medformer.crossval.compare.sources.run import owner_of, run_scores
from medformer.crossval.compare.sources.table import table_scores
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.splits.given import GivenSplit
from medformer.data.group_table import groups_of
from medformer.errors import ConfigError
from medformer.evaluation.table import has_groups


def open_scores(path: Path, *, groups: Path | None = None, folds: GivenSplit | None = None) -> Scores:
    """Open a run, a baseline inside a run, an evaluated folder, a result folder of nnU-Net, or a CSV table.

    Args:
        path: The folder or file.
        groups: Table with the group (patient) of each case, for a table that does not say it.
        folds: The split whose folds the scores come from, for all but runs (`medformer.crossval.splits.read`).

    Raises:
        ConfigError: It is none of these.
        DataError: A file is missing, damaged or was edited, or a case has no group or no fold.
    """
    return _completed(_open(Path(path)), groups, folds)


def open_tables(paths: Sequence[Path], *, groups: Path | None = None, folds: GivenSplit | None = None) -> list[Scores]:
    """Open several to compare them; see `open_scores`.

    Raises:
        ConfigError: One is none of these; or groups or folds are given, and no table needs them.
        DataError: See `open_scores`.
    """
    opened = [_open(Path(path)) for path in paths]
    if groups is not None and opened and all(has_groups(list(table.rows.values())) for table in opened):
        raise ConfigError(
            f"The groups of {groups} would not be used, because every table says itself whose a case is. Leave them "
            "out (--groups), or take the column `group` out of the tables."
        )
    if folds is not None and opened and all(table.plan is not None for table in opened):
        raise ConfigError(
            f"The folds of {folds.source} would not be used, because every run has those of its plan. Leave them out "
            "(--folds)."
        )
    return [_completed(table, groups, folds) for table in opened]


def _completed(found: Scores, groups: Path | None, folds: GivenSplit | None) -> Scores:
    """Scores with the folds and groups of other files, as far as they do not say them."""
    found = found if folds is None else with_folds(found, folds)
    rows = list(found.rows.values())
    if groups is None or has_groups(rows):
        return found
    group = groups_of(list(dict.fromkeys(name for _, name in found.rows)), groups)
    return replace(found, rows={key: {**row, "group": group[key[1]]} for key, row in found.rows.items()})


def _open(path: Path) -> Scores:
    if path.suffix.lower() in (".csv", ".tsv"):
        return table_scores(path)
    run = RunDirectory(path, resumed=True)
    if run.is_run() or (run.oof_csv.is_file() and owner_of(run) is not None):
        return run_scores(run)
    if is_evaluated(path):
        return evaluated_scores(path)
    if nnunet_summaries(path):
        return nnunet_scores(path)
    what = "is a file of another kind"
    if path.is_dir():
        what = "is not a run folder (it has no run.json written by medformer) and holds no table of scores"
    if not path.exists():
        what = "does not exist"
    raise ConfigError(
        f"There are no scores in {path}: it {what}. Expected a run folder or a baseline in it (RUN/baselines/NAME), a "
        "folder that `medformer polyp evaluate` or `volume evaluate` wrote, a result folder of nnU-Net (with "
        "fold_*/validation/summary.json, or summary.json), or a CSV table with `id` and columns of numbers."
    )
