"""Everything a report is made from, read from the run folder once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medformer.crossval.checks.canary import CanaryVerdict, canary_verdict
from medformer.crossval.compare.compare import adjust, compare_runs
from medformer.crossval.compare.result import Comparison
from medformer.crossval.plan import Plan, read_plan
from medformer.crossval.run.collect import read_oof, verify_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.plan.volume_plan import read_plan as read_volume_plan
from medformer.errors import DataError, MedformerError
from medformer.files import read_csv, read_json, sha256
from medformer.reporting.figures.explanation import Explanation, read_explanation
from medformer.yaml_files import parse_yaml

PRIOR = "prior_mask"
"""The baseline that predicts the average training mask: what is left to learn when masks are permuted."""


@dataclass(frozen=True)
class SubRun:
    """Another model on the folds of the run: a baseline, or the canary with its permuted labels.

    Attributes:
        run: Its folder.
        metrics: Its metrics.json.
        rows: Its oof.csv.
    """

    run: RunDirectory
    metrics: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Facts:
    """A run as its report sees it.

    Attributes:
        run: The folder.
        record: run.json.
        config_text: config.yaml as written.
        metrics: metrics.json, as `medformer.evaluation.summary.summarize` makes it.
        rows: oof.csv, numbers as numbers.
        plan: splits.json; None for runs without a plan.
        audit: audit.json; None when no audit was written.
        histories: Per fold, history.csv as columns of numbers; folds without one are left out.
        baselines: By name, those that have numbers.
        canary: The same plan on permuted labels; None when it was not run.
        site_probe: site_probe.json; None when there is none.
        cohort: cohort.json; None when there is none.
        pretraining: Per fold, pretraining.json; folds without one are left out.
        explanation: What `explain` left; None when it was not run.
        volume_plans: Per fold, plan.json: how volumes were presented; folds without one are left out.
    """

    run: RunDirectory
    record: Mapping[str, Any]
    config_text: str
    metrics: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    plan: Plan | None
    audit: Mapping[str, Any] | None
    histories: Mapping[int, Mapping[str, Sequence[float]]]
    baselines: Mapping[str, SubRun] = field(default_factory=dict)
    canary: SubRun | None = None
    site_probe: Mapping[str, Any] | None = None
    cohort: Mapping[str, Any] | None = None
    pretraining: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    explanation: Explanation | None = None
    volume_plans: Mapping[int, VolumePlan] = field(default_factory=dict)

    @cached_property
    def comparisons(self) -> tuple[Mapping[str, Comparison], Mapping[str, str]]:
        """The run against each baseline (B is the run), and the baselines that it cannot be compared with, and why."""
        found, problems = {}, {}
        for name, baseline in self.baselines.items():
            try:
                found[name] = compare_runs(baseline.run, self.run, name_a=name, name_b="the model")
            except MedformerError as error:
                problems[name] = str(error)
        return dict(zip(found, adjust(list(found.values())), strict=True)), problems

    @cached_property
    def canary_verdict(self) -> tuple[CanaryVerdict | None, str]:
        """What the canary says, or why nothing; None and an empty reason when it was not run."""
        if self.canary is None:
            return None, ""
        prior = self.baselines.get(PRIOR)
        floor = None if prior is None or self.classification else prior.rows
        try:
            return canary_verdict([self.canary.rows], real=self.rows, floor=floor), ""
        except DataError as error:
            return None, str(error)

    @cached_property
    def classification(self) -> bool:
        """Whether cases are classified; else they are segmented."""
        return "score" in self.rows[0]

    @cached_property
    def noun(self) -> str:
        """What a case is called."""
        return {"polyp": "image", "volume": "volume", "abide": "subject"}.get(str(self.record.get("task")), "case")

    @cached_property
    def labels(self) -> Mapping[str, Any]:
        """The numbers of each named label; empty where cases have a single mask."""
        found: Mapping[str, Any] = self.metrics.get("by_label") or {}
        return found

    @cached_property
    def target(self) -> str:
        """What is segmented."""
        return "labeled structure" if self.labels else "lesion"

    @cached_property
    def thresholded(self) -> bool:
        """Whether decisions were made at a threshold; label maps take the most probable label."""
        return any("threshold" in row for row in self.rows)

    @cached_property
    def first_rows(self) -> Sequence[Mapping[str, Any]]:
        """One row per case: those of the first repeat."""
        first = min((row.get("repeat", 0) for row in self.rows), default=0)
        return [row for row in self.rows if row.get("repeat", 0) == first]

    @cached_property
    def cases(self) -> int:
        """Number of distinct cases."""
        return len({row["id"] for row in self.rows})

    @cached_property
    def folds(self) -> int:
        """Number of folds, those of all repeats counted."""
        return len({row["fold"] for row in self.rows if "fold" in row})

    @cached_property
    def repeats(self) -> int:
        """How often the plan was drawn."""
        return len({row["repeat"] for row in self.rows if "repeat" in row}) or 1

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml as values."""
        content = parse_yaml(self.config_text, str(self.run.config_yaml))
        return content if isinstance(content, dict) else {}

    @cached_property
    def sites(self) -> list[str]:
        """Distinct non-empty sites."""
        return sorted({str(row["site"]) for row in self.rows if row.get("site")})

    @cached_property
    def groups(self) -> int:
        """Number of distinct patients or sequences."""
        return len({row.get("group") or row["id"] for row in self.rows})

    @cached_property
    def session(self) -> Mapping[str, Any]:
        """The session that the results are from: the last one."""
        sessions = self.record.get("sessions") or [{}]
        last: Mapping[str, Any] = sessions[-1]
        return last

    @cached_property
    def stale(self) -> bool:
        """Whether oof.csv was changed after metrics.json was computed from it."""
        recorded = self.metrics.get("source", {}).get("sha256")
        return recorded is not None and recorded != sha256(self.run.oof_csv)

    @cached_property
    def edited(self) -> str:
        """Why oof.csv is not the table that the run wrote; empty when it is."""
        try:
            verify_oof(self.run)
        except DataError as error:
            return str(error)
        return ""


def read_facts(path: Path) -> Facts:
    """Read a run folder.

    Raises:
        ConfigError: It is not a run folder.
        DataError: The run has no numbers yet, or one of its files is damaged.
    """
    run = RunDirectory.open(path)
    for file in (run.oof_csv, run.metrics_json):
        if not file.is_file():
            raise DataError(f"{file} is missing, so there is nothing to report yet. Finish the run with --resume.")
    plan = read_plan(run.splits_json) if run.splits_json.is_file() else None
    histories, pretraining, volume_plans = {}, {}, {}
    for fold in plan.folds if plan else ():
        history = run.fold(fold.index) / "history.csv"
        if history.is_file():
            histories[fold.index] = _columns(history)
        reconstruction = run.fold(fold.index) / "pretraining.json"
        if reconstruction.is_file():
            pretraining[fold.index] = _mapping(reconstruction)
        presented = run.fold(fold.index) / "plan.json"
        if presented.is_file():
            volume_plans[fold.index] = read_volume_plan(presented)
    return Facts(
        run=run,
        record=_mapping(run.run_json),
        config_text=run.config_yaml.read_text("utf-8") if run.config_yaml.is_file() else "",
        metrics=_mapping(run.metrics_json),
        rows=read_oof(run.oof_csv),
        plan=plan,
        audit=_mapping(run.audit_json) if run.audit_json.is_file() else None,
        histories=histories,
        baselines={name: sub for name, other in run.baselines.items() if (sub := _sub_run(other))},
        canary=_sub_run(run.canary),
        site_probe=_mapping(run.site_probe_json) if run.site_probe_json.is_file() else None,
        cohort=_mapping(run.cohort_json) if run.cohort_json.is_file() else None,
        pretraining=pretraining,
        explanation=read_explanation(run.explain),
        volume_plans=volume_plans,
    )


def accepted_findings(audit: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The leaks of an audit that the user accepted."""
    return [finding for finding in (audit or {}).get("findings", []) if finding.get("accepted")]


def _sub_run(run: RunDirectory) -> SubRun | None:
    """Read a run inside the run; None when it has no numbers (yet)."""
    if not (run.oof_csv.is_file() and run.metrics_json.is_file()):
        return None
    return SubRun(run, _mapping(run.metrics_json), read_oof(run.oof_csv))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}). Restore the file, or run again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


def _columns(path: Path) -> dict[str, list[float]]:
    """The numeric columns of a history; empty cells are NaN."""
    rows = read_csv(path)
    columns = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = [float(row[name] or "nan") for row in rows]
        except (TypeError, ValueError):
            continue
    return columns
