"""`medformer abide`: the verbs that only connectomes have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medformer.connectome.atlases import atlas_name
from medformer.crossval.run.collect import tested_folds
from medformer.crossval.run.outputs import output_folder
from medformer.data.connectomes.check import link_same_subject
from medformer.data.connectomes.cohort import MANIFEST_FILE, PREPARATION_FILE, read_cohort, write_cohort
from medformer.data.connectomes.prepare.cohort_preparation import (
    EXCLUSIONS_FILE,
    Prepared,
    prepare_cohort,
)
from medformer.data.connectomes.prepare.extract import Settings, atlas_files, extract_bids
from medformer.data.connectomes.prepare.fetch import fetch_abide
from medformer.data.connectomes.prepare.quality import Limits
from medformer.data.connectomes.read.matrices import Values
from medformer.data.problems import write_problems
from medformer.errors import DataError, counted
from medformer.files import read_json, write_json
from medformer.inference.attribution.checks import randomization_check
from medformer.inference.attribution.integrated_gradients import explain_fold
from medformer.inference.attribution.tables import AtlasLabels, write_attributions
from medformer.reporting.report import build_report
from medformer.seeds import derive_seed
from medformer.tasks.abide.features import read_trained_on
from medformer.tasks.abide.learner import load_scorer
from medformer.tasks.abide.new_subjects import ADVICE, export_scores
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.new_cases import require_all
from medformer.tasks.trained import open_run
from medformer.training.devices import choose_device

from .console import make_reporter, say
from .work import open_to_predict, say_scores

_SHOWN = 10
_CHECKED = 40  # subjects whose maps the randomization check compares


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
    cohort = read_cohort(made.manifest, unlabelled="allow")
    cases, same = link_same_subject(cohort)
    if same:
        write_cohort(work, cases)
        write_problems(work / EXCLUSIONS_FILE, [*made.problems, *same])
        noted = read_json(work / PREPARATION_FILE)
        noted["warnings"]["same-brain"] = len(same)
        write_json(work / PREPARATION_FILE, noted)
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
    overwrite: bool,
    device: str,
    threshold: float | None,
    pipeline: str | None,
    strategy: str | None,
    values: Values,
) -> None:
    """Write the score and decision of new subjects (see `export_scores`), and say what came of them."""
    with output_folder(out, overwrite=overwrite, by="abide predict") as work:
        trained = open_to_predict(run, "abide")
        made = export_scores(
            trained,
            sources,
            work,
            device=device,
            threshold=threshold,
            pipeline=pipeline,
            strategy=strategy,
            values=values,
            reporter=make_reporter(),
        )
    if made.problems:
        warnings = counted(len(made.problems) - made.left_out, "warning")
        say(f"{counted(made.left_out, 'subject')} left out, {warnings}: {out / EXCLUSIONS_FILE}")
        for problem in made.problems[:_SHOWN]:
            say(f"  {problem}")
    if made.known:
        say(
            f"note: {made.known} of these subjects belong to {run}, and networks of some folds were trained on them."
            + f" {trained.scores} has their scores by the networks that were not." * (trained.scores is not None)
        )
    positive = read_trained_on(trained.folders[0])[1].get(1, "positive")
    say_scores(trained, made, "subject", positive, out)
    require_all(made.problems, len(made.rows) + made.left_out, "subjects", ADVICE)


def explain(*, run: Path, steps: int) -> None:
    """Attribute every fold's test scores, pool the folds, check the result, and add it to the report.

    Raises:
        ConfigError: Not a run of this task.
        DataError: The cohort is not the one of the run, or not there.
        CheckpointError: Weights are missing.
    """
    opened, config = open_run(run, "abide")
    record = opened.record()
    reporter = make_reporter()
    cohort = read_cohort(record["manifest"])
    if cohort.digest() != record["data_sha256"]:
        raise DataError(f"{cohort.path} is not the cohort that {run} was made from. Restore it.")
    study = AbideStudy(config=config, data=cohort)
    device = choose_device(config.training.accelerator)
    found, check = [], None
    for fold in reporter.track(tested_folds(opened), "explaining folds"):
        scorer = load_scorer(config, opened.fold(fold.index))
        models = [model.to(device) for model in scorer.models]
        train, test = (scorer.features.transform(study.features, part) for part in (fold.train, fold.test))
        reference = {atlas: block.mean(axis=0) for atlas, block in train.items()}
        labels = np.array([study.by_id[name].required_label() for name in fold.test], np.int64)
        found.append(
            explain_fold(models, test, labels, reference=reference, fold=fold.index, steps=steps, device=device)
        )
        if check is None:
            some = {atlas: block[:_CHECKED] for atlas, block in test.items()}
            seed = derive_seed(config.seed, "explain")
            check = randomization_check(models[0], some, reference=reference, seed=seed, device=device)
    known = {
        atlas: AtlasLabels(block.names, block.networks, block.coordinates, study.features.columns.diagonal)
        for atlas, block in cohort.store.atlases.items()
        if atlas in study.features.columns.atlases
    }
    settings = {"model": config.model.name, "measure": config.data.measure, "steps": steps, "seed": config.seed}
    path = write_attributions(opened.path, found, known, randomization=check, settings=settings)
    say(f"Attributions of {sum(fold.subjects for fold in found)} test subjects: {path.parent}")
    say(f"Report: {build_report(opened.path)}")


def _list_left_out(reasons: Mapping[str, str], what: str) -> None:
    """Say how many were left out, and the first of them with the reason."""
    if reasons:
        say(f"{len(reasons)} {what}")
    for name, why in list(reasons.items())[:_SHOWN]:
        say(f"  {name}: {why}")
