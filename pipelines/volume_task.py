"""What the volume task gives to cross-validation: cases, plan, audit, jobs (see `pipelines.crossval.Task`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from medformer.config import VolumeConfig
from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.plan.schemes import draw_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.estimator_fold import EstimatorFold
from medformer.crossval.run.execute import FoldJob
from medformer.data.audit import audit, fold_divisions, write_findings
from medformer.data.inventory import Record
from medformer.data.manifest import Case, read_manifest
from medformer.data.problems import Problem, require_usable
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.descriptors import VOLUMES
from medformer.data.volumes.inspect.facts import case_facts
from medformer.files import digest
from medformer.inference.baselines.volume_linear import VOLUME_CLASSIFIERS
from medformer.progress import Reporter
from medformer.training.pretraining.seen import read_seen, require_untested
from pipelines.crossval import MakeJob, Task
from pipelines.volume_baselines import PriorFold, with_labels_of
from pipelines.volume_classification_fold import VolumeClassificationFold
from pipelines.volume_data import Volumes
from pipelines.volume_fold import CACHE, VolumeFold
from pipelines.volume_plan import Planner
from pipelines.volume_pretrain import case_prints

INVENTORY = "inventory"
_VALIDATION = frozenset({"val", "validation"})


class _Jobs(NamedTuple):
    """The work of one target."""

    job: MakeJob
    baselines: Mapping[str, MakeJob]
    permuted: Callable[[RunDirectory, Mapping[str, str]], FoldJob]


def volume_task(
    run: RunDirectory, config: VolumeConfig, volumes: Volumes, accept: Sequence[str], reporter: Reporter
) -> Task:
    """Check every case and return the task on them.

    Raises:
        DataError: Cases that cannot be used.
        LeakageError: A case that pretraining may see is tested.
    """
    volumes.keep()
    cases, info = volumes.manifest.cases, volumes.info
    cache = run.path / CACHE
    records = inspect_volumes(
        cases,
        masks=bool(info.labels),
        features=config.target == "classification",
        cache=cache / INVENTORY,
        reporter=reporter,
    )
    problems = [*volumes.problems, *volume_problems(cases, records, info, target=config.target)]
    require_usable(problems)
    extra = read_manifest(config.pretraining.extra, ungrouped="each").cases if config.pretraining.extra else ()
    make = _segmentation if config.target == "segmentation" else _classification
    jobs = make(config, volumes, Planner(config, info, records), cache, reporter, extra)
    return Task(
        cases=[_plan_case(case, records[case.id], volumes, config) for case in cases],
        data_sha256=volumes.digest(),
        draw=partial(_draw, config=config, given=cases),
        audit=partial(
            _audit,
            run=run,
            config=config,
            cases=cases,
            records=records,
            accept=accept,
            problems=problems,
            extra=extra,
        ),
        job=jobs.job,
        baselines=jobs.baselines,
        permuted=jobs.permuted,
    )


def _segmentation(
    config: VolumeConfig,
    volumes: Volumes,
    planner: Planner,
    cache: Path,
    reporter: Reporter,
    extra: Sequence[Case],
) -> _Jobs:
    cases, root = volumes.manifest.by_id, volumes.manifest.root

    def network(given: Mapping[str, Case], part: RunDirectory) -> FoldJob:
        return VolumeFold(
            root=root,
            cases=given,
            config=config,
            planner=planner,
            run=part,
            cache=cache,
            reporter=reporter,
            extra=extra,
        )

    def prior(part: RunDirectory) -> FoldJob:
        return PriorFold(config, volumes.info, cases, root, reporter)

    def permuted(part: RunDirectory, assignment: Mapping[str, str]) -> FoldJob:
        return network(with_labels_of(cases, assignment, part, config.plan.orientation), part)

    return _Jobs(partial(network, cases), {"prior_mask": prior}, permuted)


def _classification(
    config: VolumeConfig,
    volumes: Volumes,
    planner: Planner,
    cache: Path,
    reporter: Reporter,
    extra: Sequence[Case],
) -> _Jobs:
    cases = volumes.manifest.by_id
    labels = {name: case.required_label() for name, case in cases.items()}
    features = planner.records.arrays("features")

    def network(given: Mapping[str, int], part: RunDirectory) -> FoldJob:
        return VolumeClassificationFold(
            labels=given,
            cases=cases,
            config=config,
            planner=planner,
            run=part,
            cache=cache,
            reporter=reporter,
            extra=extra,
        )

    def linear(name: str, part: RunDirectory) -> FoldJob:
        return EstimatorFold(
            features,
            labels,
            VOLUME_CLASSIFIERS[name].part(),
            sites={name: case.site for name, case in cases.items()},
            threshold=config.inference.threshold,
            seed=config.seed,
        )

    def permuted(part: RunDirectory, assignment: Mapping[str, str]) -> FoldJob:
        return network({name: labels[other] for name, other in assignment.items()}, part)

    return _Jobs(partial(network, labels), {name: partial(linear, name) for name in VOLUME_CLASSIFIERS}, permuted)


def _plan_case(case: Case, record: Record, volumes: Volumes, config: VolumeConfig) -> PlanCase:
    """Plan by what the manifest says and by how much is labeled; the hash covers every file."""
    if config.target == "classification":
        return PlanCase(
            case.id,
            case.group,
            fingerprint=record.hashes["file"],
            site=case.site,
            label=str(case.required_label()),
            covariates=case.covariates,
        )
    facts = case_facts(record, volumes.info, config.plan.orientation)
    x, y, z = facts.spacing
    return PlanCase(
        case.id,
        case.group,
        fingerprint=digest([record.hashes["file"], record.hashes["mask"]]),
        site=case.site,
        covariates={**case.covariates, "size": f"{sum(facts.labels.values()) * x * y * z:.6g}"},
    )


def _draw(cases: Sequence[PlanCase], *, config: VolumeConfig, given: Sequence[Case]) -> Plan:
    """Draw the plan that the config asks for; of a classification, `size` means the class."""
    settings = config.crossval
    if config.target == "classification":
        columns = ["label" if name == "size" else name for name in settings.stratify]
        settings = settings.model_copy(update={"stratify": tuple(dict.fromkeys(columns))})
    return draw_plan(
        cases,
        settings,
        seed=config.seed,
        train=[case.id for case in given if case.split == "train"] or [case.id for case in given if not case.split],
        validation=[case.id for case in given if case.split in _VALIDATION],
        test=[case.id for case in given if case.split.startswith("test")],
    )


def _audit(
    plan: Plan,
    *,
    run: RunDirectory,
    config: VolumeConfig,
    cases: Sequence[Case],
    records: Mapping[str, Record],
    accept: Sequence[str],
    problems: Sequence[Problem],
    extra: Sequence[Case],
) -> None:
    """Write audit.json, and stop on any leak that is not accepted by name."""
    found = audit(cases, fold_divisions(plan.folds), records, VOLUMES).accepting(accept)
    write_findings(run.audit_json, found, problems)
    found.raise_if_leaking()
    tested = {name for fold in plan.folds for name in fold.test}
    prints = case_prints([case for case in cases if case.id in tested])
    if extra:
        require_untested(prints, case_prints(extra), config.pretraining.extra)
    if config.pretraining.weights:
        require_untested(prints, read_seen(config.pretraining.weights, "volume"), "the pretraining")
