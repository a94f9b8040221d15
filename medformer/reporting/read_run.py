"""Reading the folder of a finished run for its report; a file that cannot be used is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, Field

from medformer.crossval.plan import Plan, read_plan
from medformer.crossval.run.collect import read_oof
from medformer.crossval.run.directory import RECALL, RunDirectory
from medformer.crossval.run.journal import read_state
from medformer.crossval.run.record import read_config
from medformer.data.volumes.plan.volume_plan import read_volume_plan
from medformer.errors import DataError
from medformer.files import read_csv
from medformer.inference.threshold import read_threshold
from medformer.inference.volumes.components import read_components
from medformer.records import Content, Counts, Names, Rows, Table, Tables, read_record
from medformer.reporting.explanation import read_explanation
from medformer.reporting.finished_run import FinishedRun, InnerRun

T = TypeVar("T")


def read_finished_run(path: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        ConfigError: It is not a run folder.
        DataError: The run has no results yet, or one of its files is damaged.
    """
    folder = RunDirectory.open(path)
    for file in (folder.oof_csv, folder.metrics_json):
        if not file.is_file():
            raise DataError(f"{file} is missing, so there is nothing to report yet. Finish the run with --resume.")
    plan = _if_there(folder.splits_json, read_plan)
    baselines = {name: _read_inner_run(inner) for name, inner in folder.baselines.items()}

    def per_fold(name: str, read: Callable[[Path], T]) -> dict[int, T]:
        found = {fold.index: _if_there(folder.fold(fold.index) / name, read) for fold in (plan.folds if plan else ())}
        return {index: content for index, content in found.items() if content is not None}

    return FinishedRun(
        folder=folder,
        record=folder.record(),
        config_text=_config_text(folder),
        metrics=_object(folder.metrics_json),
        rows=read_oof(folder.oof_csv),
        plan=plan,
        audit=_if_there(folder.audit_json, partial(_object, kind=_Audit)),
        histories=per_fold("history.csv", _numeric_columns),
        baselines={name: inner for name, inner in baselines.items() if inner is not None},
        failed_baselines=_failed_baselines(folder, plan),
        canary=_read_inner_run(folder.canary),
        site_probe=_if_there(folder.site_probe_json, partial(_object, kind=_SiteProbe)),
        cohort=_if_there(folder.cohort_json, partial(_object, kind=_Cohort)),
        pretraining=per_fold("pretraining.json", partial(_object, kind=_Pretraining)),
        starts=per_fold("start.json", partial(_object, kind=_Start)),
        gates=per_fold("wide.json", partial(_object, kind=_Gates)),
        explanation=read_explanation(folder.explain),
        volume_plans=per_fold("plan.json", read_volume_plan),
        decisions=per_fold("threshold.json", _decided),
        components=per_fold("components.json", read_components),
        recalls=per_fold(RECALL, _recalled),
    )


def _if_there(file: Path, read: Callable[[Path], T]) -> T | None:
    return read(file) if file.is_file() else None


def _read_inner_run(folder: RunDirectory) -> InnerRun | None:
    """Read a run inside the run; None when it has no results (yet)."""
    if not (folder.oof_csv.is_file() and folder.metrics_json.is_file()):
        return None
    decided = {int(path.parent.name): _decided(path) for path in sorted(folder.folds.glob("[0-9]*/threshold.json"))}
    return InnerRun(folder, _object(folder.metrics_json), read_oof(folder.oof_csv), decided)


class _Audit(Content):
    findings: Rows
    problems: Rows
    looked_for: Table
    accepted_but_not_found: Names
    unknown: Names
    cases: int = 0


class _Start(Content):
    what: str
    taken: int
    adapted: Table
    left: Table
    unused: Names
    differing: Names
    share: float


class _Gate(Content):
    # Its name in the first files that had it.
    sees: Annotated[str, Field(validation_alias=AliasChoices("sees", "atlas"))]
    value: float
    gain: float | None
    error: float | None
    best: float | None
    reason: str


class _Gates(Content):
    networks: list[_Gate]


class _Retrieved(Content):
    case: str
    weight: float
    place: Annotated[list[float], Field(default_factory=list)]
    kind: int = 0


class _RecalledCase(Content):
    id: str
    marked: bool
    regions: list[_Retrieved]
    scenes: list[_Retrieved]


class _Recall(Content):
    cases: list[_RecalledCase]


class _SiteProbe(Content):
    balanced_accuracy: float | None = None
    chance: float | None = None
    low: float | None = None
    high: float | None = None
    predictable: bool | None = None
    by_site: Tables


class _Cohort(Content):
    kept: int = 0
    excluded: Counts
    exclusions: Rows
    atlases: Tables
    policies: Rows
    unseen_sites: Counts
    label_names: Table


class _Pretraining(Content):
    masked_mse: float = 0.0
    mean_edge_mse: float = 0.0
    mean_visible_mse: float = 0.0
    subjects: int = 0
    patches: int = 0
    frames: int = 0
    atlases: Table


def _failed_baselines(folder: RunDirectory, plan: Plan | None) -> dict[str, str]:
    """Why each baseline that was begun has no results: the reason of its first fold that failed."""
    begun = {path.parent.name for path in folder.path.glob("baselines/*/folds")}
    found = {}
    for name in sorted(begun - set(folder.baselines)):
        folds = folder.baseline(name)
        try:
            states = (
                [read_state(folds.fold(fold.index), fold.index, plan.digest()) for fold in plan.folds] if plan else []
            )
            found[name] = next((state.reason for state in states if state.state == "failed"), "it was not finished")
        except DataError as error:
            found[name] = str(error)
    return found


def _decided(path: Path) -> dict[str, Any]:
    return read_threshold(path).plain


def _recalled(path: Path) -> dict[str, Any]:
    return _object(path, _Recall)


def _object(path: Path, kind: type[Content] = Content) -> dict[str, Any]:
    return read_record(path, kind, "Restore the file, or run the same command with --resume.").plain


def _config_text(folder: RunDirectory) -> str:
    if not folder.config_yaml.is_file():
        return ""
    read_config(folder)
    return folder.config_yaml.read_text("utf-8")


def _numeric_columns(path: Path) -> dict[str, list[float]]:
    """The numeric columns of a history; empty cells are NaN."""
    rows = read_csv(path)
    columns = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = [float(row[name] or "nan") for row in rows]
        except (TypeError, ValueError):
            continue
    return columns
