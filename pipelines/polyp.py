"""The polyp task: each verb wires parts together and computes nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from medformer.config import PolypConfig
from medformer.crossval.collect import collect, write_metrics
from medformer.crossval.execute import execute
from medformer.crossval.plan import Plan, PlanCase, read_plan, write_plan
from medformer.crossval.run_directory import RunDirectory
from medformer.crossval.run_record import RunInfo, session
from medformer.crossval.schemes import make_plan, predefined_plan, quantile_bins
from medformer.data.audit import audit_folds, audit_split
from medformer.data.check import check_cases
from medformer.data.manifest import Case, Manifest, read_manifest
from medformer.data.problems import Problem, require_usable
from medformer.errors import ConfigError, DataError
from medformer.evaluation.summary import summarize
from medformer.files import digest, read_json, sha256, write_json
from medformer.imaging.images import read_mask
from medformer.progress import Reporter
from medformer.reporting.report import build_report
from pipelines.console import make_reporter, say
from pipelines.outputs import claim
from pipelines.polyp_data import listed

# A resumed run may be computed elsewhere and loaded differently; its results stay the same kind of number.
_MAY_DIFFER = frozenset(
    {"data.manifest", "data.cache", "data.workers", "training.accelerator", "training.strategy", "inference.batch_size"}
)

_VALIDATION = frozenset({"val", "validation"})

DrawPlan = Callable[[Sequence[Case], Sequence[PlanCase]], Plan]


def train(*, config: PolypConfig, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Train on the rows whose split is `train` (all rows if none has one); predict those whose split is `test` once."""

    def plan(cases: Sequence[Case], planned: Sequence[PlanCase]) -> Plan:
        tests = [case.id for case in cases if case.split.startswith("test")]
        trains = [case.id for case in cases if case.split == "train"] or [case.id for case in cases if not case.split]
        given = [case.id for case in cases if case.split in _VALIDATION]
        return predefined_plan(
            planned, train=trains, validation=given or config.crossval.validation, test=tests, seed=config.seed
        )

    run_polyp(config, out, plan, resume=resume, overwrite=overwrite, accept=accept)


def crossval(*, config: PolypConfig, out: Path, resume: bool, overwrite: bool, accept: list[str]) -> None:
    """Cross-validate over all rows of the manifest: grouped, stratified by dataset and mask size."""
    run_polyp(config, out, draw_crossval(config), resume=resume, overwrite=overwrite, accept=accept)


def draw_crossval(config: PolypConfig) -> DrawPlan:
    """Return what draws the fold plan that a config asks for."""

    def plan(cases: Sequence[Case], planned: Sequence[PlanCase]) -> Plan:
        chosen = config.crossval
        return make_plan(planned, folds=chosen.folds, validation=chosen.validation, seed=config.seed)

    return plan


def run_polyp(
    config: PolypConfig,
    out: Path,
    draw: DrawPlan,
    *,
    resume: bool,
    overwrite: bool,
    accept: Sequence[str],
    notes: Sequence[str] = (),
) -> None:
    """Check, audit, train every fold of a plan, collect, and report; continue what an earlier session left.

    Raises:
        MedformerError: See the parts; what was finished before stays on disk.
    """
    if not config.data.manifest:
        raise ConfigError("No data: give --data MANIFEST. `medformer polyp prepare` writes one from a folder.")
    from pipelines.polyp_fold import PolypFold, check_settings

    reporter = make_reporter()
    manifest = read_manifest(config.data.manifest, ungrouped=config.data.ungrouped)
    check_settings(config)
    run = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    info = RunInfo(
        task=config.task,
        command=["medformer", *sys.argv[1:]],
        config=config.model_dump(mode="json"),
        seed=config.seed,
        device=_device(config.training.accelerator),
        manifest=str(manifest.path.resolve()),
        data_root=str(manifest.root),
        data_sha256=manifest.digest(),
        accepted_leaks=list(accept),
        notes=list(notes),
    )
    with session(run, info, may_differ=_MAY_DIFFER):
        problems = _check(manifest, reporter)
        plan = _plan(run, manifest, config, draw)
        _audit(run, manifest, plan, accept, problems, reporter)
        execute(plan, PolypFold(config, manifest.by_id, run, manifest.root, reporter), run, reporter)
        tested = any(fold.test for fold in plan.folds)
        if tested:
            collect(run, plan)
            write_metrics(run, summarize)
    if not tested:
        say(f"Trained; the manifest has no test rows, so there is nothing to report. Weights: {run.fold(0)}")
        return
    say(f"Masks: {run.masks}")
    say(f"Overlays (yellow: prediction, blue: reference): {run.path / 'overlays'}")
    say(f"Report: {build_report(run.path)}")


def predict(
    *,
    run: Path,
    images: list[Path],
    out: Path,
    overwrite: bool,
    resume: bool,
    probabilities: str,
    threshold: float | None,
    device: str,
) -> None:
    """Segment images with a run's network, or with the ensemble of its folds."""
    from pipelines.polyp_predict import predict_images

    predict_images(
        RunDirectory.open(run),
        images,
        out,
        overwrite=overwrite,
        resume=resume,
        probabilities=probabilities,
        threshold=threshold,
        device=device,
        reporter=make_reporter(),
    )


def evaluate(*, predictions: Path, masks: Path, out: Path, overwrite: bool, threshold: float) -> None:
    """Score a folder of prediction maps."""
    from medformer.inference.scoring import score_folder, write_scores

    claim(out, overwrite=overwrite)
    rows, summary = score_folder(predictions, masks, threshold=threshold, reporter=make_reporter())
    table, numbers = write_scores(out, rows, summary)
    pooled = summary["pooled"]
    means = {name: values["mean"] for name, values in pooled["metrics"].items()}
    say(f"{summary['n']} cases; two empty masks: {summary['definitions']['empty_policy']}")
    for label, value in (
        (f"Dice at {threshold:g}", means["dice"]),
        (f"IoU at {threshold:g}", means["iou"]),
        ("mean Dice, 256 thresholds", means["mean_dice_256"]),
        ("mean IoU, 256 thresholds", means["mean_iou_256"]),
        ("weighted F", means["weighted_f"]),
        ("S-measure", means["s_measure"]),
        ("max E-measure", pooled["max_e"]),
        ("mean E-measure", pooled["mean_e"]),
        ("MAE", means["mae"]),
    ):
        say(f"  {label:<26}{value:.4f}")
    say(f"Per case: {table}\nAll numbers: {numbers}")


def report(*, run: Path) -> None:
    """Write a run's metrics and report again, from its out-of-fold table and files alone."""
    opened = RunDirectory.open(run)
    write_metrics(opened, summarize)
    say(f"Report: {build_report(opened.path)}")


def compare(*, runs: list[Path], out: Path | None) -> None:
    """Compare each later run with the first, case by case."""
    from medformer.crossval.comparison import compare_runs, format_comparison

    opened = [RunDirectory.open(run) for run in runs]
    comparisons = [compare_runs(opened[0], other) for other in opened[1:]]
    for comparison in comparisons:
        say(format_comparison(comparison))
    if out is not None:
        write_json(out / "comparison.json", [comparison.to_json() for comparison in comparisons])


def _check(manifest: Manifest, reporter: Reporter) -> list[Problem]:
    """Decode every case; return the warnings, and stop on anything worse."""
    unmasked = [case.id for case in manifest.cases if case.mask is None]
    if unmasked:
        raise DataError(
            f"{len(unmasked)} cases have no mask, such as '{unmasked[0]}'; training needs one for every case. "
            "Add them, or leave the cases out of the manifest."
        )
    problems = check_cases(manifest.cases, reporter=reporter)
    require_usable(problems)
    return problems


def _plan(run: RunDirectory, manifest: Manifest, config: PolypConfig, draw: DrawPlan) -> Plan:
    """Read the run's frozen plan and hold the data against it, or draw it."""
    planned = _plan_cases(manifest.cases, config.crossval.bins)
    drawn = draw(manifest.cases, planned)
    if run.splits_json.exists():
        plan = read_plan(run.splits_json)
        plan.check_data(planned)
        if plan.scheme != drawn.scheme:
            raise ConfigError(
                f"--resume: {run.path} holds a {plan.scheme} plan, this command draws a {drawn.scheme} one. "
                "Continue with the verb (train or crossval) that started it."
            )
        if manifest.digest() != read_json(run.run_json)["data_sha256"]:
            raise DataError(
                f"{manifest.path} gives other sites, splits or covariates than when {run.path} was started. "
                "Restore it, or start a new run in another folder."
            )
        return plan
    write_plan(run.splits_json, drawn)
    return drawn


def _plan_cases(cases: Sequence[Case], size_bins: int) -> list[PlanCase]:
    """Strata are dataset and mask-size bin, smallest first; fingerprints cover both files."""
    files = [(case.image, case.mask) for case in cases if case.mask is not None]
    bins = quantile_bins([float(read_mask(mask).mean()) for _, mask in files], size_bins)
    return [
        PlanCase(
            case.id, case.group, f"{case.site}, size {size + 1} of {size_bins}", digest([sha256(image), sha256(mask)])
        )
        for case, size, (image, mask) in zip(cases, bins, files, strict=True)
    ]


def _audit(
    run: RunDirectory,
    manifest: Manifest,
    plan: Plan,
    accept: Sequence[str],
    problems: Sequence[Problem],
    reporter: Reporter,
) -> None:
    """Write audit.json, and stop on any leak that is not accepted by name."""
    used = {name for fold in plan.folds for ids in fold.parts.values() for name in ids}
    cases = [case for case in manifest.cases if case.id in used]
    if any(case.split in _VALIDATION for case in cases) and len(plan.folds) == 1:
        # A validation part that the manifest gives may share groups with training, which a drawn one never does.
        audit = audit_split(cases, plan.folds[0].parts, reporter=reporter)
    else:
        audit = audit_folds(cases, plan.folds, reporter=reporter)
    audit = audit.accepting(accept)
    write_json(run.audit_json, {**audit.to_json(), "problems": listed(problems)})
    audit.raise_if_leaking()


def _device(accelerator: str) -> str:
    import torch

    from medformer.training.devices import choose_device

    device = choose_device(accelerator)
    return f"cuda: {torch.cuda.get_device_name()}" if device.type == "cuda" else device.type
