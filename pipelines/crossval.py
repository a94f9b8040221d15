"""Cross-validation as every task runs it: a plan, its folds, what runs beside them, one table, numbers, a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medformer.config import CrossvalConfig, ExecutionConfig
from medformer.crossval.checks.permute import permuted_assignment
from medformer.crossval.plan import Plan, PlanCase, read_plan, write_plan
from medformer.crossval.plan.balance import balance_table, format_balance, plan_warnings
from medformer.crossval.run.collect import collect, verify_oof, write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import FoldJob, execute
from medformer.crossval.run.executors import build_executor
from medformer.errors import ConfigError, DataError
from medformer.evaluation.summary import summarize
from medformer.files import read_json, write_json
from medformer.progress import Reporter
from medformer.reporting.report import build_report
from medformer.seeds import derive_seed
from pipelines.console import say

MakeJob = Callable[[RunDirectory], FoldJob]
"""Returns the job that works in a run folder: the run's own, or that of a baseline or the canary inside it."""


@dataclass(frozen=True)
class Task:
    """What a task gives to cross-validation.

    Attributes:
        cases: What planning needs to know, in manifest order.
        data_sha256: Hash over all that the manifest says, beside which a resumed run is held.
        draw: Draws the fold plan.
        audit: Looks for leaks between the parts of a plan, writes audit.json, and raises if there are any.
        job: The model's work in one fold.
        baselines: Cheap methods for the same folds, by name.
        permuted: The model's work when each case has the label or mask of another: case id to the other's id.
        probe: How well the site can be predicted from what the model is given; None where that makes no sense.
    """

    cases: Sequence[PlanCase]
    data_sha256: str
    draw: Callable[[Sequence[PlanCase]], Plan]
    audit: Callable[[Plan], None]
    job: MakeJob
    baselines: Mapping[str, MakeJob] = field(default_factory=dict)
    permuted: Callable[[RunDirectory, Mapping[str, str]], FoldJob] | None = None
    probe: Callable[[Plan], dict[str, Any] | None] | None = None


def crossvalidate(
    run: RunDirectory,
    task: Task,
    settings: CrossvalConfig,
    execution: ExecutionConfig,
    reporter: Reporter,
) -> bool:
    """Run a task's plan to the last number, continuing what an earlier session left.

    The model's folds come first, then the baselines, the canary and the site probe, so that what was asked for is there
    before what stands beside it.

    Returns:
        Whether anything was tested; a plan may only train.

    Raises:
        MedformerError: See the parts; what was finished before stays on disk.
    """
    plan = settle_plan(run, task)
    for line in (*format_balance(balance_table(plan)).splitlines(), *plan_warnings(plan)):
        reporter.line(line)
    task.audit(plan)
    tested = any(fold.test for fold in plan.folds)
    with build_executor(execution) as executor:

        def complete(part: RunDirectory, job: FoldJob) -> None:
            part.path.mkdir(parents=True, exist_ok=True)
            execute(plan, job, part, reporter, executor)
            if tested:
                collect(part, plan)
                write_metrics(part, summarize)

        complete(run, task.job(run))
        if not tested:
            return False
        if settings.baselines:
            for name, make in task.baselines.items():
                reporter.line(f"Baseline {name} on the same folds.")
                complete(run.baseline(name), make(run.baseline(name)))
        if settings.permute_labels and task.permuted is not None:
            reporter.line("The same plan on permuted labels.")
            assignment = permuted_assignment(plan.cases, derive_seed(plan.seed, "permuted labels"))
            complete(run.canary, task.permuted(run.canary, assignment))
    if task.probe is not None and not run.site_probe_json.exists() and (probed := task.probe(plan)) is not None:
        write_json(run.site_probe_json, probed)
    return True


def settle_plan(run: RunDirectory, task: Task) -> Plan:
    """Read the run's frozen plan and hold the data against it, or draw it and freeze it.

    Raises:
        DataError: The data are not the ones the plan was drawn for.
        ConfigError: The folder holds a plan of another scheme.
    """
    if not run.splits_json.exists():
        drawn = task.draw(task.cases)
        write_plan(run.splits_json, drawn)
        return drawn
    plan = read_plan(run.splits_json)
    plan.check_data(task.cases)
    drawn = task.draw(task.cases)
    if plan.scheme != drawn.scheme:
        raise ConfigError(
            f"--resume: {run.path} holds a {plan.scheme} plan, this command draws a {drawn.scheme} one. "
            "Continue with the verb (train or crossval) that started it."
        )
    if task.data_sha256 != read_json(run.run_json)["data_sha256"]:
        raise DataError(
            f"The manifest gives other sites, splits or covariates than when {run.path} was started. "
            "Restore it, or start a new run in another folder."
        )
    return plan


def report(*, run: Path) -> None:
    """Write a run's numbers and report again, from its out-of-fold tables and files alone."""
    opened = RunDirectory.open(run)
    for part in (opened, *opened.baselines.values(), *([opened.canary] if opened.canary.oof_csv.exists() else [])):
        verify_oof(part)
        write_metrics(part, summarize)
    say(f"Report: {build_report(opened.path)}")


def status(*, run: Path, watch: float | None) -> None:
    """Say where each fold of a run stands, once, or every `watch` seconds until the run has ended."""
    from medformer.crossval.run.status import format_status, read_status

    while True:
        found = read_status(run)
        say(format_status(found))
        if watch is None or not found.live:
            return
        time.sleep(watch)
        say("")


def compare(*, runs: Sequence[Path], out: Path | None, metric: str | None, shared_cases: bool) -> None:
    """Compare each later run, or baseline inside a run, with the first, case by case."""
    from medformer.crossval.compare.compare import compare_all
    from medformer.crossval.compare.pairs import open_compared
    from medformer.crossval.compare.text import format_comparisons
    from medformer.reporting.comparison_files import write_comparison

    opened = [open_compared(run) for run in runs]
    found = compare_all(opened, metric=metric, allow_different_plans=shared_cases)
    say(format_comparisons(found))
    if out is not None:
        for path in write_comparison(out, found):
            say(f"Wrote {path}")
