"""Cross-validation as every task runs it: a plan, its folds, what runs beside them, one table, its numbers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medformer.config import AnyConfig
from medformer.config.shared import ExecutionConfig
from medformer.crossval.checks.permute import permuted_assignment
from medformer.crossval.checks.site_probe import site_probe
from medformer.crossval.plan import Plan, PlanCase, write_plan
from medformer.crossval.plan.balance import balance_table, format_balance, plan_warnings
from medformer.crossval.plan.schemes import predefined_plan
from medformer.crossval.run.begin.audited_plan import audit_plan, frozen_plan, seen_before
from medformer.crossval.run.begin.given_parts import held_out_note, hold_out, unknown_part_notes
from medformer.crossval.run.begin.precision import decide_precision
from medformer.crossval.run.beside import run_beside
from medformer.crossval.run.collect import collect, write_metrics
from medformer.crossval.run.contract import Context, Learner, NetworkLearner, Study, Task
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import LearnerJob, execute
from medformer.crossval.run.executors import build_executor, fold_threads
from medformer.crossval.run.forecast.hours import as_begun, fit_time
from medformer.crossval.run.forecast.say import foresee
from medformer.crossval.run.record import RunInfo, session
from medformer.crossval.run.start.seen import Seen, write_seen_by_run
from medformer.crossval.run.start.source import KEY, Start, find_start, keep_start
from medformer.crossval.run.start.weights import decide_weights, describe_weights, seen_by_encoder, weights_hashes
from medformer.data.audit import write_findings
from medformer.data.inventory import Inventory
from medformer.data.problems import Problem, describe_warnings, require_usable, write_problems
from medformer.data.seen import require_same_seen, write_seen
from medformer.errors import ConfigError
from medformer.evaluation.summary import summarize
from medformer.files import write_json
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.devices import choose_device

PROBLEMS = "problems.csv"
"""What is wrong with the cases of a run."""

# A resumed run may be computed elsewhere, loaded differently and compared with more; its results stay the same kind.
_MAY_DIFFER = frozenset(
    {
        "base",
        "data.manifest",
        "data.cache",
        "data.workers",
        "training.accelerator",
        "training.compile",
        "training.strategy",
        "training.tracker",
        "training.save_minutes",
        "inference.batch_size",
        "report.subgroups",
        "crossval.baselines",
        "crossval.permute_labels",
        *(f"execution.{name}" for name in ExecutionConfig.model_fields),
    }
)


def run(
    task: Task,
    config: AnyConfig,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> RunDirectory:
    """Train every fold of a plan and collect the results; continue what an earlier session left.

    The model's folds come first, then the baselines, the canary and the site probe, so that what was asked for is there
    before what accompanies it. A plan without test cases only trains, and leaves no out-of-fold table.

    Args:
        task: Which.
        config: The run's config.
        out: The run folder.
        reporter: Receives the progress.
        resume: Continue the run in `out`.
        overwrite: Delete it first.
        accept: Leaks that the user accepts by name.
        notes: What a reader of the report must know about the data.

    Raises:
        BesideError: The results are complete, and something that runs beside the model failed.
        MedformerError: See the parts; what was finished before stays on disk.
    """
    start = find_start(config, RunDirectory(out), resume=resume)
    config, decided = decide_weights(as_begun(config, out, resume=resume), out, resume=resume, start=start)
    if base := getattr(config, "base", ""):
        taken = f"No config was named and no GPU is here: --config {base}; --config {config.task}/default overrides it."
        decided = [taken, *decided]
    study = task.open(config, reporter, out=out)
    study.check()
    study, computed = decide_precision(study, out, resume=resume)
    decided = [*decided, *computed]
    if start is not None:
        study.check_start(start)
    unknown = unknown_part_notes(study)
    notes = [*notes, *decided, *study.notes, *held_out_note(study), *unknown]
    directory = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    with ExitStack() as stack:
        if directory.resumed:
            stack.enter_context(_recorded(directory, study, reporter, accept=accept, notes=notes, start=start))
        # What is refused leaves no run, and an earlier run that was to be overwritten stays.
        with directory.unless_refused():
            inventory = study.inspect(directory.inventory, reporter)
            problems = study.problems(inventory)
            require_usable(problems)
            if not directory.resumed:
                fitting, said = fit_time(study, inventory, directory.cache)
                if fitting is not study:
                    # A resumed run describes the cases for the same size of images.
                    study, inventory = fitting, fitting.inspect(directory.inventory, reporter)
                decided, notes = [*decided, *said], [*notes, *said]
            plan = frozen_plan(directory, study, inventory)
            for line in (*format_balance(balance_table(plan)).splitlines(), *plan_warnings(plan)):
                reporter.line(line)
            before = seen_before(directory, study, start, reporter)
            audit = audit_plan(study, plan, inventory, accept, before)
            audit.raise_if_leaking()
            learner = study.without(study.held_out).learner(inventory, directory.cache)
            if not directory.resumed:
                study.check_training(min(plan.folds, key=lambda fold: len(fold.train)), learner)
                _clear(directory, study)
        if not directory.resumed:
            stack.enter_context(_recorded(directory, study, reporter, accept=accept, notes=notes, start=start))
        study.keep(directory)
        for line in (*decided, *hold_out(directory, study), *unknown, *before.unknown):
            reporter.line(line)
        start = keep_start(start, directory)
        write_seen_by_run(directory, study.seen_cases(inventory), before)
        if not directory.splits_json.exists():
            write_plan(directory.splits_json, plan)
        write_findings(directory.audit_json, audit, problems)
        list_problems(directory, problems, reporter)
        _run_folds(directory, learner, plan, inventory, reporter, start)
        # Prepared data can be made again; a finished run should not weigh many times its data.
        shutil.rmtree(directory.cache, ignore_errors=True)
    return directory


def pretrain(
    task: Task, config: AnyConfig, out: Path, reporter: Reporter, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Pretrain an encoder on all cases, labelled or not, with a part of them held out for choosing weights.

    Test rows of a manifest are left out. The folder then says which cases the encoder has seen, so that no fold can
    test them (`seen_cases`).

    Returns:
        How well hidden parts of the held-out cases are reconstructed.

    Raises:
        MedformerError: See the parts.
    """
    for key, given, instead in (
        (KEY, config.training.init_from, "pretraining starts from first or published weights"),
        ("training.hours", config.training.hours, "pretraining takes pretraining.epochs"),
        ("pretraining.weights", config.pretraining.weights, "pretraining starts from first or published weights"),
        (
            "pretraining.extra",
            config.pretraining.extra,
            "`pretrain` reads no label, so list these with the others",
        ),
    ):
        if given:
            raise ConfigError(f"{key} is for `train` and `crossval`; {instead}. Leave it out.")
    config, decided = decide_weights(config, out, resume=resume)
    if seen_by_encoder(config) != Seen():
        raise ConfigError(
            "model.weights names a network that medformer trained, and the folder of a pretraining does not say what "
            "that network has seen. Give published weights or null; or train from it with --init-from."
        )
    study = task.open(config, reporter, out=out, labelled=False)
    study.check()
    study, computed = decide_precision(study, out, resume=resume)
    held_out = [*decided, *computed, *held_out_note(study)]
    directory = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    with ExitStack() as stack:
        recorded, whole = _recorded(directory, study, reporter, notes=[*study.notes, *held_out], here=True), study
        if directory.resumed:
            stack.enter_context(recorded)
        study = study.without(study.held_out)
        with directory.unless_refused():
            inventory = study.inspect(directory.inventory, reporter)
            problems = study.problems(inventory)
            require_usable(problems)
            seen = study.seen_cases(inventory)
            if directory.resumed:
                require_same_seen(directory.path, seen)
            else:
                _clear(directory, study)
        if not directory.resumed:
            stack.enter_context(recorded)
        whole.keep(directory)
        list_problems(directory, problems, reporter)
        for line in held_out:
            reporter.line(line)
        ids = [case.id for case in study.cases]
        fold = predefined_plan(
            [PlanCase(case.id, case.group, site=case.site) for case in study.cases],
            train=ids,
            validation=config.crossval.validation,
            seed=config.seed,
        ).folds[0]
        write_seen(directory.path, seen)
        learner = study.learner(inventory, directory.cache)
        quality = learner.pretrain(Context(fold, directory.path, directory, config.seed, resume, reporter))
        shutil.rmtree(directory.cache, ignore_errors=True)
    return {**quality, "held_out": len(fold.validation)}


def list_problems(directory: RunDirectory, problems: Sequence[Problem], reporter: Reporter) -> None:
    """Write what is wrong with the cases to problems.csv, and say the first warnings."""
    table = directory.path / PROBLEMS
    if problems:
        write_problems(table, problems)
    for line in describe_warnings(problems, table):
        reporter.line(line)


def _run_folds(
    directory: RunDirectory,
    learner: NetworkLearner,
    plan: Plan,
    inventory: Inventory,
    reporter: Reporter,
    start: Start | None,
) -> None:
    study: Study[Any, Any] = learner.study
    config, left = study.config, len(plan.folds)
    if not directory.resumed:
        lines, timed = foresee(study, plan.folds, learner, start)
        for line in lines:
            reporter.line(line)
        # The training itself then does not say it again.
        left = 0 if timed else left
    tested = any(fold.test for fold in plan.folds)
    with build_executor(config.execution) as executor:

        def complete(part: RunDirectory, learner: Learner) -> None:
            part.path.mkdir(parents=True, exist_ok=True)
            traits = study.traits(inventory) if part.path == directory.path else None
            job = LearnerJob(learner, part, config.seed, reporter, folds=left, start=start, traits=traits)
            execute(plan, job, part, reporter, executor)
            if tested:
                collect(part, plan)
                named = config.report.subgroups if part.path == directory.path else ()
                write_metrics(part, summarize, subgroups=named)

        complete(directory, learner)
        if not tested:
            return
        study.facts(directory)

        def baseline(name: str, learner: Callable[[], Learner]) -> None:
            complete(directory.baseline(name), learner())

        def canary() -> None:
            giver = permuted_assignment(plan.cases, derive_seed(plan.seed, "permuted labels"))
            permuted = study.relabelled(giver, directory.canary.path)
            complete(directory.canary, permuted.learner(inventory, directory.cache))

        parts: list[tuple[str, Callable[[], None]]] = []
        if config.crossval.baselines:
            parts += [
                (f"Baseline {name}", partial(baseline, name, learner))
                for name, learner in study.baselines(inventory).items()
            ]
        if config.crossval.permute_labels:
            parts.append(("The canary with permuted labels", canary))
        if not directory.site_probe_json.exists():
            parts.append(("The site probe", partial(_probe_sites, directory, study, plan, inventory)))
        run_beside(directory, parts, reporter)


def _probe_sites(directory: RunDirectory, study: Study[Any, Any], plan: Plan, inventory: Inventory) -> None:
    sites = {case.id: case.site for case in study.cases if case.site}
    if len(set(sites.values())) > 1:
        features, described = study.probe_features(inventory)
        write_json(directory.site_probe_json, site_probe(features, sites, plan, described=described))


@contextmanager
def _recorded(
    directory: RunDirectory,
    study: Study[Any, Any],
    reporter: Reporter,
    *,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
    start: Start | None = None,
    here: bool = False,
) -> Iterator[None]:
    """Keep run.json and config.yaml of the work inside, and record in them how it ended.

    Whatever the executor is, pretraining computes here, in this process.
    """
    config, data = study.config, study.data
    info = RunInfo(
        task=config.task,
        command=["medformer", *sys.argv[1:]],
        config=config.model_dump(mode="json"),
        seed=config.seed,
        device=_device(config),
        threads=(None if here else fold_threads(config.execution)) or torch.get_num_threads(),
        manifest=str(data.path.resolve()),
        data_root=str(data.root),
        data_sha256=data.digest(),
        accepted_leaks=list(accept),
        notes=list(notes),
        weights=weights_hashes(config, start),
        pretrained=describe_weights(config, start),
    )
    with session(directory, info, may_differ=_MAY_DIFFER) as changes:
        if changes:
            reporter.line(f"Note: {changes}")
        yield


def _clear(directory: RunDirectory, study: Study[Any, Any]) -> None:
    """Delete an earlier run in the folder, unless this one reads from it.

    Raises:
        ConfigError: It does.
    """
    config = study.config
    named = [config.data.manifest, config.pretraining.weights, config.pretraining.extra, config.training.init_from]
    named.append(getattr(config.model, "weights", None))
    files = [file for case in study.cases for file in (*case.images, case.mask) if file is not None]
    read = [*(Path(name) for name in named if name), *files] if directory.is_run() else []
    needed = next((path for path in read if _is_inside(path, directory.path)), None)
    if needed is not None:
        raise ConfigError(
            f"--overwrite would delete {needed}, which this run reads. Move it, or choose another folder for --out."
        )
    directory.clear()


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is deleted with a folder, by its name or by what links lead to."""
    by_name = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
    return by_name or path.resolve().is_relative_to(folder.resolve())


def _device(config: AnyConfig) -> str:
    if config.execution.address is not None:
        return f"{config.training.accelerator}, on the Ray cluster {config.execution.address}"
    device = choose_device(config.training.accelerator)
    return f"cuda: {torch.cuda.get_device_name()}" if device.type == "cuda" else device.type
