"""What the polyp task gives to cross-validation: cases, plan, audit, jobs (see `pipelines.crossval.Task`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from medformer.config import PolypConfig
from medformer.crossval.checks.site_probe import site_probe
from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.plan.schemes import draw_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import FoldJob
from medformer.data.audit import audit, fold_divisions, write_findings
from medformer.data.frames.describe import frame_problems, inspect_frames
from medformer.data.frames.near_duplicates import FRAMES
from medformer.data.frames.transforms import resize_mask
from medformer.data.inventory import Inventory, Record
from medformer.data.manifest import Case, Manifest
from medformer.data.problems import Problem, require_usable
from medformer.errors import DataError
from medformer.files import digest
from medformer.imaging.images import image_size, read_mask
from medformer.imaging.masks import write_mask
from medformer.inference.baselines.table import BASELINES
from medformer.progress import Reporter
from pipelines.crossval import Task

_VALIDATION = frozenset({"val", "validation"})


def polyp_task(
    run: RunDirectory, config: PolypConfig, manifest: Manifest, accept: Sequence[str], reporter: Reporter
) -> Task:
    """Check every case of a manifest and return the task on those cases.

    Raises:
        DataError: Cases without a mask, or that cannot be used.
    """
    from pipelines.polyp_baselines import PolypBaselineFold
    from pipelines.polyp_fold import PolypFold

    records, problems = _inspect(run, config, manifest, reporter)

    def model(cases: Mapping[str, Case], part: RunDirectory) -> FoldJob:
        return PolypFold(config, cases, part, manifest.root, reporter)

    def baseline(name: str, part: RunDirectory) -> FoldJob:
        return PolypBaselineFold(name, config, manifest.by_id, manifest.root, reporter)

    def probe(plan: Plan) -> dict[str, Any] | None:
        sites = {case.id: case.site for case in manifest.cases}
        if len(set(sites.values())) < 2:
            return None
        return site_probe(
            records.arrays("thumbnail"), sites, plan, described="thumbnails of the images as the network sees them"
        )

    def permuted(part: RunDirectory, assignment: Mapping[str, str]) -> FoldJob:
        return model(_with_masks_of(manifest.by_id, assignment, part), part)

    return Task(
        cases=[_plan_case(case, records[case.id]) for case in manifest.cases],
        data_sha256=manifest.digest(),
        draw=partial(_draw, config=config, manifest=manifest),
        audit=partial(_audit, run=run, manifest=manifest, accept=accept, records=records, problems=problems),
        job=partial(model, manifest.by_id),
        baselines={name: partial(baseline, name) for name in BASELINES},
        permuted=permuted,
        probe=probe,
    )


def _draw(cases: Sequence[PlanCase], *, config: PolypConfig, manifest: Manifest) -> Plan:
    given = manifest.cases
    return draw_plan(
        cases,
        config.crossval,
        seed=config.seed,
        train=[case.id for case in given if case.split == "train"] or [case.id for case in given if not case.split],
        validation=[case.id for case in given if case.split in _VALIDATION],
        test=[case.id for case in given if case.split.startswith("test")],
    )


def _inspect(
    run: RunDirectory, config: PolypConfig, manifest: Manifest, reporter: Reporter
) -> tuple[Inventory, list[Problem]]:
    """Read every case once; return what is known of them and the warnings, and stop on anything worse."""
    unmasked = [case.id for case in manifest.cases if case.mask is None]
    if unmasked:
        raise DataError(
            f"{len(unmasked)} cases have no mask, such as '{unmasked[0]}'; training needs one for every case. "
            "Add them, or leave the cases out of the manifest."
        )
    records = inspect_frames(
        manifest.cases, image_size=config.data.image_size, cache=run.path / "inventory", reporter=reporter
    )
    problems = frame_problems(manifest.cases, records)
    require_usable(problems)
    return records, problems


def _plan_case(case: Case, record: Record) -> PlanCase:
    """Plan by the share of the image that is foreground, beside what the manifest says; the hash covers both files."""
    return PlanCase(
        case.id,
        case.group,
        fingerprint=digest([record.hashes["file"], record.hashes["mask"]]),
        site=case.site,
        covariates={**case.covariates, "size": f"{record.facts['foreground']:.6f}"},
    )


def _audit(
    plan: Plan,
    *,
    run: RunDirectory,
    manifest: Manifest,
    accept: Sequence[str],
    records: Inventory,
    problems: Sequence[Problem],
) -> None:
    """Write audit.json, and stop on any leak that is not accepted by name."""
    divisions = fold_divisions(plan.folds)
    if plan.scheme == "predefined" and any(case.split in _VALIDATION for case in manifest.cases):
        # A validation part that the manifest gives may share groups with training, which a drawn one never does.
        divisions = [("", plan.folds[0].parts)]
    found = audit(manifest.cases, divisions, records, FRAMES).accepting(accept)
    write_findings(run.audit_json, found, problems)
    found.raise_if_leaking()


def _with_masks_of(cases: Mapping[str, Case], assignment: Mapping[str, str], part: RunDirectory) -> dict[str, Case]:
    """Give each case the mask of another, stretched to the case's own size and written below `part`."""
    given = {}
    for name, case in cases.items():
        other = read_mask(cases[assignment[name]].required_mask())
        path = part.path / "labels" / f"{name}.png"
        write_mask(path, resize_mask(other, image_size(case.required_image())))
        given[name] = replace(case, mask=path)
    return given
