"""The out-of-fold table of a run, or of a baseline inside a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medformer.crossval.compare.scores import Scores, by_key, kind_of
from medformer.crossval.plan import read_plan
from medformer.crossval.run.collect import read_oof, verify_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, DataError
from medformer.yaml_files import read_yaml

# Baselines lie two folders below their run.
_DEEPEST = 2

_AGAIN = "Run the cross-validation again with --resume, which writes the table anew."


def run_scores(run: RunDirectory) -> Scores:
    """Read the table of a run, or of a baseline, which has the plan of the run that holds it.

    Raises:
        ConfigError: It is neither.
        DataError: The table or the plan is missing, damaged or was edited.
    """
    owner = owner_of(run)
    if owner is None:
        raise ConfigError(f"{run.path} is neither a run folder nor a baseline inside one. Check the path.")
    verify_oof(run)
    if not run.oof_csv.is_file():
        raise DataError(f"{run.path} has no out-of-fold table (oof.csv) yet. Finish the run with --resume.")
    table = read_oof(run.oof_csv)
    plan = read_plan(run.splits_json if run.splits_json.is_file() else owner.splits_json)
    rows = by_key(table, str(run.oof_csv))
    task = owner.record()["task"]
    kind, settings = kind_of(table[0]), _settings(run.config_yaml)
    found = Scores(run.path, str(run.oof_csv), kind, rows, _AGAIN, task, plan, plan.folds, settings=settings)
    tested = found.fold_of()
    for key, row in rows.items():
        if key not in tested or row.get("fold", tested[key]) != tested[key]:
            planned = f"fold {tested[key]}" if key in tested else "no fold of that repeat"
            raise DataError(
                f"{run.oof_csv} has case '{key[1]}' in fold {row.get('fold')} of repeat {key[0]}; the plan tests it in "
                f"{planned}. {_AGAIN}"
            )
    return found


def _settings(config: Path) -> dict[str, Any]:
    """A run's config by dotted key, but for where it was computed; empty for a baseline, which has none of its own."""
    found: dict[str, Any] = {}
    for section, value in (read_yaml(config) if config.is_file() else {}).items():
        if isinstance(value, dict):
            found |= {f"{section}.{key}": inner for key, inner in value.items() if section != "execution"}
        else:
            found[str(section)] = value
    return found


def owner_of(run: RunDirectory) -> RunDirectory | None:
    """The run itself, or the one that holds it as a baseline; None where there is neither."""
    path = run.path.absolute()
    for folder in (path, *path.parents[:_DEEPEST]):
        found = RunDirectory(folder, resumed=True)
        if found.is_run():
            return found
    return None
