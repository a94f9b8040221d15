"""`medformer abide`: the verbs that only connectomes have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medformer.connectome.atlases import atlas_name
from medformer.crossval.run.outputs import output_folder
from medformer.data.connectomes.cohort import MANIFEST_FILE
from medformer.data.connectomes.prepare.quality import Limits
from medformer.data.connectomes.read.matrices import Values
from medformer.errors import counted

from .console import make_reporter, say
from .work import predicting, say_scores

if TYPE_CHECKING:
    from medformer.data.connectomes.prepare.cohort_preparation import Prepared

_SHOWN = 10


def fetch(
    *,
    out: Path,
    atlases: Sequence[str],
    pipeline: str,
    strategy: str,
    subjects: int | None,
    all_quality: bool,
    url: str | None,
) -> None:
    """Download time series and the phenotypic table of the Preprocessed Connectomes Project."""
    from medformer.data.connectomes.prepare.fetch import fetch_abide

    found = fetch_abide(
        out,
        pipeline=pipeline,
        strategy=strategy,
        atlases=atlases,
        quality_checked=not all_quality,
        subjects=subjects,
        url=url,
        reporter=make_reporter(),
    )
    _list_left_out(found.missing, "subjects lack a file, and prepare will leave them out:")
    say(f"{counted(len(found.subjects), 'subject')}: {found.folder}")
    say(f"Next: medformer abide prepare {found.folder} --pipeline {pipeline} --strategy {strategy} --out COHORT")


def extract(
    *,
    bids: Path,
    atlases: Sequence[str],
    out: Path,
    confounds: str,
    task: str | None,
    space: str | None,
    participants: Path | None,
    low_pass: float | None,
    high_pass: float | None,
) -> None:
    """Average preprocessed BOLD over the regions of atlases."""
    from medformer.data.connectomes.prepare.extract import Settings, atlas_files, extract_bids

    with output_folder(out, resume=True, beside=True):
        done = extract_bids(
            bids,
            atlas_files(atlases),
            out,
            settings=Settings(confounds, low_pass=low_pass, high_pass=high_pass),
            space=space,
            task=task,
            participants=participants,
            reporter=make_reporter(),
        )
    _list_left_out(done.refused, "scans could not be used:")
    _list_left_out(dict.fromkeys(done.without_participant, "not listed"), "scans have no participant in the table:")
    _list_left_out(dict.fromkeys(done.without_scan, "no scan"), "participants of the table have no scan:")
    say(f"{len(done.kept)} scans: {done.folder}; every scan, with its motion and coverage: {done.table}")
    say(f"Next: medformer abide prepare {done.folder} --pipeline fmriprep --strategy {confounds} --out COHORT")


def prepare(
    *,
    source: Path,
    out: Path,
    atlases: Sequence[str],
    phenotype: Path | None,
    positive: str | None,
    values: Values,
    pipeline: str,
    strategy: str,
    max_mean_fd: float | None,
    min_timepoints: int,
    all_quality: bool,
    max_constant_regions: float,
    missing_atlas: Literal["exclude", "error"],
    labels: Sequence[Path],
    overwrite: bool,
) -> None:
    """Turn time series or matrices into a cohort."""
    limits = Limits(
        usable_only=False if all_quality else None,
        max_mean_fd=max_mean_fd,
        min_time_points=min_timepoints,
        max_constant_regions=max_constant_regions,
    )
    prepare_folder(
        source,
        out,
        overwrite=overwrite,
        atlases=[atlas_name(name) for name in atlases],
        pipeline=pipeline,
        strategy=strategy,
        phenotype=phenotype,
        positive=positive,
        values=values,
        # The atlas is the part of a file's name before `_`, such as cc200 of CC200_ROI_labels.csv.
        labels={atlas_name(file.stem.split("_")[0].lower()): file for file in labels},
        limits=limits,
        missing_atlas=missing_atlas,
    )
    say(f"Next: medformer abide check {out}")


def prepare_folder(source: Path, out: Path, *, overwrite: bool, **settings: Any) -> Path:
    """Prepare a cohort (see `prepare_cohort` for the settings), say what came of it, and return its manifest."""
    from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort

    with output_folder(out, overwrite=overwrite, by="abide prepare") as work:
        made = prepare_cohort(source, work, reporter=make_reporter(), **settings)
        _finish(made, work, out)
    return out / MANIFEST_FILE


def _finish(made: Prepared, work: Path, out: Path) -> None:
    """Join the groups of subjects who show one brain, and say what came of the preparation.

    Args:
        made: The preparation.
        work: Where it is now.
        out: Where it will be.
    """
    from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE
    from medformer.data.connectomes.same_brains import join_same_brains

    cohort, same = join_same_brains(made, work)
    cases = cohort.cases
    for title, counts in (("Left out", made.excluded), ("Kept although", {**made.warnings, "same-brain": len(same)})):
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        if listed:
            say(f"{title}: {listed}.")
    for problem in same:
        say(f"  {problem}")
    if made.problems or same:
        say(f"Every one of them, with the reason: {out / EXCLUSIONS_FILE}")
    classes = Counter(case.label for case in cases)
    names = [*cohort.label_names.items(), (None, "without a label")]
    sites = {case.site for case in cases if case.site}
    regions = ", ".join(f"{name} ({block.regions})" for name, block in cohort.store.atlases.items())
    labels = ", ".join(f"{classes[label]} {name}" for label, name in names if classes[label])
    places = f"from {counted(len(sites), 'site')}" if sites else "whose site is not known"
    say(f"{counted(len(cases), 'subject')} ({labels}) {places}, atlases {regions}: {out / MANIFEST_FILE}")
    if len(classes) < 2:
        say("note: all of them are of one class; training and cross-validation need both.")


def predict(
    *,
    run: Path,
    sources: Sequence[Path],
    out: Path,
    model: str | None,
    threshold: float | None,
    pipeline: str | None,
    strategy: str | None,
    values: Values,
    **common: Any,
) -> None:
    """Write the score and decision of new subjects (see `export_scores`), and say what came of them."""
    from medformer.crossval.run.directory import RunDirectory
    from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE
    from medformer.tasks.abide.features import read_trained_on
    from medformer.tasks.abide.new_subjects import export_scores
    from medformer.tasks.new_cases import LEAVE_OUT, require_all

    with predicting("abide", run, sources, out=out, **common) as request:
        made = export_scores(
            request, model=model or "", threshold=threshold, pipeline=pipeline, strategy=strategy, values=values
        )
    trained = request.trained
    if made.late:
        warnings = [problem for problem in made.late if problem.severity == "warning"]
        left_out = f"{counted(made.left_out, 'subject')} left out"
        say(f"{left_out}, {counted(len(warnings), 'warning')}: {out / EXCLUSIONS_FILE}")
        # Those that were left out are named by the error below.
        for problem in warnings[:_SHOWN]:
            say(f"  {problem}")
    scores = RunDirectory(run).baseline(model).oof_csv if model else trained.scores
    if made.known:
        say(
            f"note: {made.known} of these subjects belong to {run}, and models of some folds were trained on them."
            + f" {scores} has their scores by the models that were not." * (scores is not None)
        )
    positive = read_trained_on(trained.folders[0])[1].get(1, "positive")
    say_scores(trained, made, "subject", positive, out, by=f"{model} model" if model else "network")
    require_all(made, "subjects", LEAVE_OUT)


def explain(*, run: Path, steps: int) -> None:
    """Explain what the scores of a run rest on (see `explain_run`), and add it to the report."""
    from medformer.reporting.report import build_report
    from medformer.tasks.abide.explanation import explain_run

    folder, subjects = explain_run(run, steps=steps, reporter=make_reporter())
    say(f"Attributions of {subjects} test subjects: {folder}")
    say(f"Report: {build_report(run)}")


def _list_left_out(reasons: Mapping[str, str], what: str) -> None:
    """Say how many were left out, and the first of them with the reason."""
    if reasons:
        say(f"{len(reasons)} {what}")
    for name, why in list(reasons.items())[:_SHOWN]:
        say(f"  {name}: {why}")
