"""The connectome task's data: from downloads, images or matrices to a cohort, and what is wrong with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from medformer.connectome.atlases import atlas_name
from medformer.data.connectomes.check import check_cohort
from medformer.data.connectomes.cohort import FEATURES, MANIFEST_FILE, read_cohort, write_cohort
from medformer.data.connectomes.near_duplicates import link_same_subject
from medformer.data.connectomes.prepare.cohort_preparation import (
    EXCLUSIONS_FILE,
    PREPARATION_FILE,
    Prepared,
    prepare_cohort,
)
from medformer.data.connectomes.prepare.extract import Settings, atlas_file, extract_bids
from medformer.data.connectomes.prepare.fetch import fetch_abide
from medformer.data.connectomes.prepare.quality import Limits
from medformer.data.problems import quarantine, require_usable, write_problems
from medformer.errors import ConfigError
from medformer.files import read_json, write_json
from pipelines.console import make_reporter, say

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
    if found.missing:
        say(f"{len(found.missing)} subjects lack a file, and prepare will leave them out:")
        for name, why in list(found.missing.items())[:_SHOWN]:
            say(f"  {name}: {why}")
    say(f"{len(found.subjects)} subjects: {found.folder}")
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
    done = extract_bids(
        bids,
        dict(atlas_file(text) for text in atlases),
        out,
        settings=Settings(confounds, low_pass=low_pass, high_pass=high_pass),
        space=space,
        task=task,
        participants=participants,
        reporter=make_reporter(),
    )
    if done.refused:
        say(f"{len(done.refused)} scans could not be used:")
        for name, why in list(done.refused.items())[:_SHOWN]:
            say(f"  {name}: {why}")
    say(f"{len(done.kept)} scans: {done.folder}; every scan, with its motion and coverage: {done.table}")
    say(f"Next: medformer abide prepare {done.folder} --pipeline fmriprep --strategy {confounds} --out COHORT")


def prepare(
    *,
    source: Path,
    out: Path,
    atlases: Sequence[str],
    phenotype: Path | None,
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
    _claim(out, overwrite)
    limits = Limits(
        usable_only=False if all_quality else None,
        max_mean_fd=max_mean_fd,
        min_time_points=min_timepoints,
        max_constant_regions=max_constant_regions,
    )
    made = prepare_cohort(
        source,
        out,
        atlases=[atlas_name(name) for name in atlases],
        pipeline=pipeline,
        strategy=strategy,
        phenotype=phenotype,
        labels=_label_tables(labels),
        limits=limits,
        missing_atlas=missing_atlas,
        reporter=make_reporter(),
    )
    _finish(made, out)
    say(f"Next: medformer abide check {out}")


def prepare_folder(source: Path, out: Path) -> Path:
    """Prepare a cohort with every default, in place of what is there, and return its manifest."""
    _claim(out, overwrite=True)
    made = prepare_cohort(source, out, reporter=make_reporter())
    _finish(made, out)
    return made.manifest


def _finish(made: Prepared, out: Path) -> None:
    """Join the groups of subjects who show one brain, and say what came of the preparation."""
    cohort = read_cohort(made.manifest, unlabelled="allow")
    subjects, twins = link_same_subject(cohort)
    if twins:
        write_cohort(out, subjects)
        problems = [*made.problems, *twins]
        write_problems(out / EXCLUSIONS_FILE, problems)
        noted = read_json(out / PREPARATION_FILE)
        noted["warnings"]["same-brain"] = len(twins)
        write_json(out / PREPARATION_FILE, noted)
    for title, counts in (("Left out", made.excluded), ("Kept although", {**made.warnings, "same-brain": len(twins)})):
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        if listed:
            say(f"{title}: {listed}.")
    for problem in twins:
        say(f"  {problem}")
    if made.problems or twins:
        say(f"Every one of them, with the reason: {out / EXCLUSIONS_FILE}")
    patients = sum(subject.label == 1 for subject in subjects)
    sites = len({subject.site for subject in subjects})
    regions = ", ".join(f"{name} ({block.regions})" for name, block in cohort.store.atlases.items())
    say(f"{len(subjects)} subjects ({patients} ASD) from {sites} site(s), atlases {regions}: {made.manifest}")


def check(*, manifest: Path, out: Path | None) -> None:
    """List what is wrong with a cohort."""
    cohort = read_cohort(manifest, unlabelled="allow")
    problems = [*check_cohort(cohort, reporter=make_reporter()), *link_same_subject(cohort)[1]]
    for problem in problems:
        say(str(problem))
    warnings = sum(problem.severity == "warning" for problem in problems)
    say(f"{len(cohort.cases)} subjects, {len(quarantine(problems))} cannot be used, {warnings} warnings.")
    if out is not None:
        write_problems(out / "problems.csv", problems)
    require_usable(problems)


def _label_tables(files: Sequence[Path]) -> Mapping[str, Path]:
    """Tables by atlas: the part of a file's name before `_`, such as `cc200` of CC200_ROI_labels.csv."""
    return {atlas_name(file.stem.split("_")[0].lower()): file for file in files}


def _claim(out: Path, overwrite: bool) -> None:
    """Make room for a cohort; only what a preparation writes is deleted."""
    own = {MANIFEST_FILE, FEATURES, EXCLUSIONS_FILE, PREPARATION_FILE}
    there = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if there - own or (there and not overwrite):
        raise ConfigError(
            f"--out {out} is not empty. "
            + ("Choose a new or empty folder." if there - own else "Add --overwrite to replace the cohort there.")
        )
    for name in there:
        entry = out / name
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
