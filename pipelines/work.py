"""The verbs that all tasks share, and what the others begin with: a run to open, and a folder of `--out` to claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medformer.config import SCHEMAS, AnyConfig
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.outputs import output_folder
from medformer.data.problems import LISTED, Problem, quarantine, require_usable, write_problems
from medformer.errors import ConfigError, DataError, counted
from medformer.inference.scored_cases import CaseSource
from medformer.records import read_record

from .console import make_reporter, say

if TYPE_CHECKING:
    from medformer.inference.scoring import Unpaired
    from medformer.tasks.new_cases import Request, Scored
    from medformer.tasks.trained import Trained

_GUESSES = {"mean_edge_mse": "each connection's mean", "mean_visible_mse": "the mean of what is visible of a case"}
"""What pretraining is held against, by its key in `pretraining.json`."""


def crossval(
    *,
    task: str,
    config: AnyConfig,
    out: Path,
    resume: bool,
    overwrite: bool,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Check, audit, train every fold of a plan, collect, and report; continue what an earlier session left.

    Raises:
        MedformerError: See `runner.run`; what was finished before stays on disk.
    """
    from medformer.crossval.run import runner
    from medformer.crossval.run.beside import BesideError
    from medformer.evaluation.summary import headline
    from medformer.reporting.report import build_report
    from medformer.tasks import get_task

    failure = None
    try:
        run = runner.run(
            get_task(task),
            config,
            out,
            make_reporter(),
            resume=resume,
            overwrite=overwrite,
            accept=accept,
            notes=notes,
        )
    except BesideError as error:
        run, failure = error.run, error
    if not run.oof_csv.exists():
        say(f"Trained; the manifest has no test rows, so there is nothing to report. Weights: {run.fold(0)}")
        return
    if run.masks.is_dir():
        say(f"Masks: {run.masks}")
        say(f"Overlays (yellow: prediction, blue: reference): {run.path / 'overlays'}")
    say(f"Report: {build_report(run.path)}")
    say(headline(read_record(run.metrics_json, dict[str, Any], "Run the same command with --resume.")))
    new = run.held_out_csv if run.held_out_csv.is_file() else "NEW"
    say(f"Next: medformer {task} predict {run.path} {new} --out DIR")
    if failure is not None:
        raise failure


def pretrain(*, task: str, config: AnyConfig, out: Path, resume: bool, overwrite: bool) -> None:
    """Pretrain an encoder on all cases of a manifest, with a part of them held out for choosing weights."""
    from medformer.crossval.run import runner
    from medformer.tasks import get_task

    quality = runner.pretrain(get_task(task), config, out, make_reporter(), resume=resume, overwrite=overwrite)
    key, guess = next((key, words) for key, words in _GUESSES.items() if key in quality)
    say(
        f"Hidden parts of {quality['held_out']} held-out cases: mean squared error {quality['masked_mse']:.4f}; "
        f"guessing {guess} gives {quality[key]:.4f}."
    )
    say(f"Encoder: {out}. Use it with pretraining.weights={out}")


def check(
    *,
    task: str,
    data: Path,
    out: Path | None,
    accept: Sequence[str],
    ungrouped: Literal["error", "each"] = "error",
    group_pattern: str | None = None,
    target: str | None = None,
    foreground: Sequence[str] | None = None,
) -> None:
    """Read every case, list what is wrong with it, and audit the split for leakage.

    Raises:
        DataError: Cases cannot be used.
        LeakageError: Parts of the split share something that is not accepted by name.
    """
    from medformer.data.audit import split_parts, write_findings
    from medformer.tasks import get_task

    with nullcontext() if out is None else output_folder(out, resume=True, beside=True):
        reporter = make_reporter()
        keys: dict[str, Any] = {"data": {"manifest": str(data)}}
        if task != "abide":
            keys["data"]["ungrouped"] = ungrouped
        if group_pattern is not None:
            keys["data"]["group_pattern"] = group_pattern
        if target is not None:
            keys["target"] = target
        if foreground:
            keys["data"]["foreground"] = foreground
        # A cohort may hold subjects to be scored; an image without a mask is among the problems.
        study = get_task(task).open(SCHEMAS[task].model_validate(keys), reporter, labelled=task != "abide")
        inventory = study.inspect(None, reporter)
        problems = study.problems(inventory)
        warnings = sum(problem.severity == "warning" for problem in problems)
        # What the error below can list is not said twice.
        many = len(problems) - warnings > LISTED
        for problem in problems:
            if many or problem.severity == "warning":
                say(str(problem))
        say(
            f"{counted(len(study.cases), 'case')}, {len(quarantine(problems))} cannot be used, "
            f"{counted(warnings, 'warning')}."
        )
        for note in study.notes:
            say(f"note: {note}")
        if out is not None:
            write_problems(out / "problems.csv", problems)
        require_usable(problems, named=many)
        classes = {case.label for case in study.cases}
        if task == "abide" and len(study.cases) > 1 and len(classes) == 1 and None not in classes:
            raise DataError(
                f"All {len(study.cases)} subjects are of the class {classes.pop()}; expected some of 0 and some of 1. "
                "Correct the column `label`; empty it where the cohort is only to be predicted."
            )
        parts = split_parts(study.cases)
        audit = study.audit([("", parts)], inventory).accepting(accept)
        if out is not None:
            write_findings(out / "audit.json", audit, problems)
        audit.raise_if_leaking()
        sides = " / ".join(parts) if len(parts) <= 3 else f"{len(parts)} groups"
        if audit.findings:
            say(f"{counted(len(audit.findings), 'finding')}, accepted by name.")
        elif len(parts) < 2:
            say("All cases are in one group or part, so there is nothing that a leak could be between.")
        else:
            say(f"No leak between {sides}.")


@contextmanager
def predicting(
    task: str,
    run: Path,
    paths: Sequence[Path],
    *,
    out: Path,
    overwrite: bool,
    device: str,
    resume: bool | None = None,
) -> Iterator[Request]:
    """Claim the folder of the results, open what a run or bundle of a task learned, and say what its user must know."""
    from medformer.tasks.new_cases import Request
    from medformer.tasks.trained import open_trained

    with output_folder(out, overwrite=overwrite, resume=resume, by=f"{task} predict") as work:
        trained = open_trained(run, task)
        if trained.note:
            say(f"note: {trained.note}")
        yield Request(trained, paths, work, out, say, make_reporter(), device, bool(resume))


def say_scores(trained: Trained, made: Scored, noun: str, positive: str, out: Path, *, by: str = "network") -> None:
    """Say what came of cases that were classified.

    Args:
        trained: What classified them.
        made: The result.
        noun: What a case is called.
        positive: What the positive class is called.
        out: Folder of the table.
        by: What one that scored them is called.
    """
    from medformer.tasks.new_cases import PREDICTIONS

    say(made.calibration)
    say(
        f"{counted(len(made.rows), noun)}, {made.positive} of them {positive} at threshold "
        f"{made.predictor.threshold:.3g}, by {counted(len(trained.folders), by)}: {out / PREDICTIONS}"
    )


def sidecars(manifest: Path) -> tuple[Path, ...]:
    """What `prepare` may write beside a manifest."""
    return (
        _problems_of(manifest),
        *(manifest.with_name(f"{manifest.name}.{kind}.json") for kind in ("root", "dataset")),
    )


def _problems_of(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.stem}.problems.csv")


def list_problems(problems: Sequence[Problem], out: Path) -> None:
    """Write the problems of a scanned folder beside its manifest, and say the first of them."""
    if not problems:
        return
    table = _problems_of(out)
    write_problems(table, problems)
    verbs = "was left out or needs" if len(problems) == 1 else "were left out or need"
    say(f"{counted(len(problems), 'file')} {verbs} a look; see {table}:")
    for problem in problems[:10]:
        say(f"  {problem}")


def evaluated(
    task: str,
    score: Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]],
    lines: Callable[[Mapping[str, Any]], Iterable[str]],
    *,
    predictions: Path,
    masks: Path,
    out: Path,
    overwrite: bool,
    manifest: Path | None,
    groups: Path | None,
    group_pattern: str | None,
    ungrouped: Literal["unknown", "each"],
    only_common: bool,
) -> None:
    """Score a folder of predictions of a task with `score`, write tables and a page, and say `lines` of the summary."""
    from medformer.evaluation.summary import NOTHING
    from medformer.inference.scoring import UNSCORED, write_scores
    from medformer.reporting.evaluation import write_evaluation

    unpaired: Unpaired = {}
    with output_folder(out, overwrite=overwrite, by=f"{task} evaluate") as work:
        rows, summary = score(
            predictions,
            masks,
            cases=CaseSource(groups, manifest, group_pattern, ungrouped),
            unpaired=unpaired if only_common else None,
            reporter=make_reporter(),
        )
        table, numbers = write_scores(work, rows, summary, unpaired)
        page = write_evaluation(
            work, rows, summary, task=task, predictions=predictions.resolve().name, unpaired=unpaired
        )
    say(f"{counted(summary['n'], 'case')}; two empty masks: {summary['definitions']['empty_policy']}")
    for partner, names in unpaired.items():
        say(f"note: {counted(len(names), 'name')} without a {partner} left out: {out / UNSCORED}")
    if summary.get("resampled") == NOTHING:
        say(
            f"No intervals: nobody says whose the {summary['n']} cases are, so all could be of one patient. Give "
            "--manifest MANIFEST, --groups TABLE (id, group), or --group-pattern where the names tell it; or "
            "--ungrouped each where every case really is of another patient."
        )
    else:
        say(f"Intervals are over {counted(summary['pooled']['groups'], 'group')}.")
    for line in lines(summary):
        say(f"  {line}")
    say(f"Per case: {out / table.name}\nAll numbers: {out / numbers.name}\nReport: {out / page.name}")


def export(*, run: Path, out: Path, fold: str, onnx: bool, no_hashes: bool, overwrite: bool) -> None:
    """Write a bundle of a run: what predicts, without anything that tells whom it was trained on."""
    from medformer.reporting.model_card import bundle_card
    from medformer.tasks.export_bundle import export_bundle

    with output_folder(out, overwrite=overwrite, by="export") as work:
        record, notes = export_bundle(run, work, bundle_card, fold=fold, hashes=not no_hashes, onnx=onnx)
    for note in notes:
        say(f"note: {note}")
    say(f"Bundle of {counted(record['networks'], 'network')}, with the hash of every file in bundle.json: {out}")
    say(f"Next: medformer {record['task']} predict {out} NEW --out DIR")


def report(*, run: Path, share: bool, methods: bool, subgroups: Sequence[str]) -> None:
    """Write a run's numbers and report again, from its out-of-fold tables and files alone."""
    from medformer.crossval.run.collect import named_subgroups, verify_oof, write_metrics
    from medformer.evaluation.summary import summarize
    from medformer.reporting.paper.methods import write_methods
    from medformer.reporting.report import build_report

    opened = RunDirectory.open(run)
    columns = subgroups or named_subgroups(opened)
    for part in (opened, *opened.baselines.values(), *([opened.canary] if opened.canary.oof_csv.exists() else [])):
        verify_oof(part)
        write_metrics(part, summarize, subgroups=columns if part is opened else ())
    say(f"Report: {build_report(opened.path)}")
    if share:
        say(f"Report without names and pictures of cases: {build_report(opened.path, share=True)}")
    if methods:
        say(f"Methods and results for a paper: {write_methods(opened.path)}")


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


def audit(
    *,
    data: Path,
    splits: Sequence[Path],
    task: str | None,
    group_pattern: str | None,
    out: Path | None,
    accept: Sequence[str],
) -> None:
    """Look for leaks in somebody else's split, and describe its balance; nothing is trained.

    Raises:
        LeakageError: The split leaks.
        DataError: It does not as far as can be told, but some cases cannot be read.
    """
    from medformer.reporting.split_audit import write_split_audit
    from medformer.tasks.split_audit import audit_data

    with nullcontext() if out is None else output_folder(out, resume=True, beside=True):
        found = audit_data(
            data, splits, task=task, group_pattern=group_pattern, accept=accept, reporter=make_reporter()
        )
        for line in found.lines():
            say(line)
        for path in write_split_audit(out, found) if out is not None else ():
            say(f"Wrote {path}")
        found.raise_if_leaking()


def compare(
    *,
    tables: Sequence[Path],
    out: Path | None,
    metric: str | None,
    higher_is_better: bool,
    lower_is_better: bool,
    shared_cases: bool,
    groups: Path | None,
    folds: Sequence[Path],
    ungrouped: Literal["error", "each"],
) -> None:
    """Compare each later run or table of scores with the first, case by case."""
    from medformer.crossval.compare.compare import compare_scores
    from medformer.crossval.compare.open import open_tables
    from medformer.crossval.compare.text import format_comparisons
    from medformer.crossval.splits.read import read_split

    if higher_is_better and lower_is_better:
        raise ConfigError("Got --higher-is-better and --lower-is-better; expected at most one.")
    with nullcontext() if out is None else output_folder(out, resume=True, beside=True):
        split = read_split(folds) if folds else None
        found = compare_scores(
            open_tables(tables, groups=groups, folds=split),
            metric=metric,
            direction="higher" if higher_is_better else "lower" if lower_is_better else None,
            shared_only=shared_cases,
            ungrouped=ungrouped,
        )
        say(format_comparisons(found))
        if out is not None:
            from medformer.reporting.comparison_files import write_comparison

            for path in write_comparison(out, found):
                say(f"Wrote {path}")
