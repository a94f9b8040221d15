"""What the connectome task gives to cross-validation: subjects, plan, audit, jobs (see `pipelines.crossval.Task`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from medformer.config import AbideConfig
from medformer.connectome.atlases import ATLASES
from medformer.connectome.baselines import baseline_names, build_baseline
from medformer.crossval.checks.site_probe import site_probe
from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.plan.schemes import draw_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator_fold import EstimatorFold
from medformer.crossval.run.execute import FoldJob
from medformer.data.audit import audit, fold_divisions, write_findings
from medformer.data.connectomes.check import inspect_cohort
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.near_duplicates import CONNECTOMES
from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE, PREPARATION_FILE
from medformer.data.inventory import Inventory
from medformer.data.problems import require_usable
from medformer.files import digest, read_csv, read_json
from medformer.progress import Reporter
from medformer.training.pretraining.seen import read_seen, require_untested
from pipelines.abide_features import CohortFeatures, atlas_pipeline
from pipelines.abide_fold import AbideFold
from pipelines.abide_pretrain import subject_prints
from pipelines.crossval import MakeJob, Task


def abide_task(
    run: RunDirectory,
    config: AbideConfig,
    cohort: Cohort,
    accept: Sequence[str],
    reporter: Reporter,
    extra: Cohort | None = None,
) -> Task:
    """Check every subject of a cohort and return the task on them.

    Raises:
        DataError: Subjects that cannot be used.
        LeakageError: A subject that pretraining may see is tested.
    """
    records = inspect_cohort(cohort, cache=run.path / "inventory", reporter=reporter)
    require_usable(records.problems)
    features = CohortFeatures(cohort, config)
    unlabeled = None if extra is None else CohortFeatures(extra, config, features.columns.sites)
    labels = {subject.id: subject.required_label() for subject in cohort.cases}

    def network(given: Mapping[str, int], part: RunDirectory) -> FoldJob:
        return AbideFold(config, features, given, part, reporter, unlabeled)

    def baseline(name: str, part: RunDirectory) -> FoldJob:
        return EstimatorFold(
            features,
            labels,
            build_baseline(name, features.columns, partial(atlas_pipeline, config, features.columns)),
            sites={subject.id: subject.site for subject in cohort.cases},
            covariates={subject.id: subject.covariates for subject in cohort.cases},
            threshold=config.inference.threshold,
            seed=config.seed,
        )

    def permuted(part: RunDirectory, assignment: Mapping[str, str]) -> FoldJob:
        return network({name: labels[assignment[name]] for name in labels}, part)

    def probe(plan: Plan) -> dict[str, Any] | None:
        sites = {subject.id: subject.site for subject in cohort.cases if subject.site}
        if len(set(sites.values())) < 2:
            return None
        first = features.columns.slice(features.columns.atlases[0])
        connections = {name: features[name][first] for name in sites}
        return site_probe(connections, sites, plan, described=f"connections of the atlas {features.columns.atlases[0]}")

    makers: dict[str, MakeJob] = {name: partial(baseline, name) for name in baseline_names(features.columns)}
    return Task(
        cases=plan_cases(cohort, features),
        data_sha256=cohort.digest(),
        draw=partial(draw, config=config, cohort=cohort),
        audit=partial(_audit, run=run, config=config, cohort=cohort, accept=accept, records=records, extra=extra),
        job=partial(network, labels),
        baselines=makers,
        permuted=permuted,
        probe=probe,
    )


def plan_cases(cohort: Cohort, features: CohortFeatures) -> list[PlanCase]:
    """What planning needs to know; the fingerprint covers what is stored of a subject, whatever is computed from it."""
    atlases = features.columns.atlases
    return [
        PlanCase(
            subject.id,
            subject.group,
            fingerprint=digest([cohort.store.stored(atlas, subject.id).tobytes().hex() for atlas in atlases]),
            site=subject.site,
            label=str(subject.required_label()),
            covariates=dict(subject.covariates),
        )
        for subject in cohort.cases
    ]


def draw(cases: Sequence[PlanCase], *, config: AbideConfig, cohort: Cohort) -> Plan:
    """Draw the plan that the config asks for."""

    def of(*parts: str) -> list[str]:
        return [subject.id for subject in cohort.cases if subject.split in parts]

    return draw_plan(
        cases, config.crossval, seed=config.seed, train=of("train"), validation=of("val", "validation"), test=of("test")
    )


def _audit(
    plan: Plan,
    *,
    run: RunDirectory,
    config: AbideConfig,
    cohort: Cohort,
    accept: Sequence[str],
    records: Inventory,
    extra: Cohort | None,
) -> None:
    """Write audit.json, and stop on any leak that is not accepted by name."""
    found = audit(cohort.cases, fold_divisions(plan.folds), records, CONNECTOMES).accepting(accept)
    write_findings(run.audit_json, found, records.problems)
    found.raise_if_leaking()
    tested = {name for fold in plan.folds for name in fold.test}
    subjects = [subject for subject in cohort.cases if subject.id in tested]
    if extra is not None:
        require_untested(subject_prints(cohort, subjects), subject_prints(extra), str(extra.path))
    if config.pretraining.weights:
        require_untested(
            subject_prints(cohort, subjects), read_seen(config.pretraining.weights, "abide"), "the pretraining"
        )


_POLICIES = {
    "constant-regions": ("A region without signal", "kept; its connections are 0"),
    "few-time-points": ("A scan not longer than the number of regions", "kept; covariances are shrunk"),
    "same-brain": ("Two subjects show one brain", "kept in one group, so that no fold parts them"),
}


def cohort_facts(run: RunDirectory, cohort: Cohort) -> dict[str, Any]:
    """What the report says of the cohort: who was left out, what is odd, and whose site was never trained on."""
    folder = cohort.path.parent
    prepared = read_json(folder / PREPARATION_FILE) if (folder / PREPARATION_FILE).is_file() else {}
    exclusions = read_csv(folder / EXCLUSIONS_FILE) if (folder / EXCLUSIONS_FILE).is_file() else []
    warnings = prepared.get("warnings", {})
    unseen: dict[str, set[str]] = {}
    for path in sorted(run.folds.glob("*/inputs.json")):
        for name in read_json(path)["unseen_sites"]:
            unseen.setdefault(cohort.by_id[name].site, set()).add(name)
    return {
        "kept": len(cohort.cases),
        "excluded": prepared.get("excluded", {}),
        "exclusions": [row for row in exclusions if row["severity"] == "error"],
        "atlases": {
            name: {
                "title": ATLASES[name].title if name in ATLASES else "",
                "content": {"series": "time series", "correlation": "correlations"}[block.content],
                "regions": block.regions,
            }
            for name, block in cohort.store.atlases.items()
        },
        "policies": [
            {"situation": situation, "policy": policy, "count": warnings[reason], "unit": "subjects"}
            for reason, (situation, policy) in _POLICIES.items()
            if warnings.get(reason)
        ],
        "unseen_sites": {site: len(names) for site, names in sorted(unseen.items())},
    }
