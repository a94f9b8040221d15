"""The plan of a run, drawn or read again, and its audit for leaks between the parts and from what was seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medformer.crossval.plan import Plan, read_plan, some
from medformer.crossval.plan.strata import require_groups
from medformer.crossval.run.begin.given_parts import VALIDATION, draw
from medformer.crossval.run.contract import Study
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.start.seen import Seen
from medformer.crossval.run.start.source import Start
from medformer.crossval.run.start.weights import seen_by_encoder
from medformer.data.audit import Audit, fold_divisions
from medformer.data.cases import is_test
from medformer.data.inventory import Inventory
from medformer.data.problems import require_usable
from medformer.data.seen import find_seen, read_seen
from medformer.errors import ConfigError, DataError
from medformer.progress import Reporter


def frozen_plan(directory: RunDirectory, study: Study[Any, Any], inventory: Inventory) -> Plan:
    """Read the frozen plan of a resumed run and check the data against it; draw that of a new one.

    Raises:
        DataError: The data are not the ones the plan was drawn for.
        ConfigError: The folder holds a plan of another scheme.
    """
    cases = [study.plan_case(case, inventory[case.id]) for case in study.without(study.held_out).cases]
    require_groups(cases, study.config.report.subgroups)
    if not (directory.resumed and directory.splits_json.exists()):
        return draw(study, cases)
    plan = read_plan(directory.splits_json)
    # Before drawing, which changed data may not allow.
    plan.check_data(cases)
    drawn = draw(study, cases)
    if plan.scheme != drawn.scheme:
        raise ConfigError(
            f"--resume: {directory.path} holds a {plan.scheme} plan, this command draws a {drawn.scheme} one. "
            "Continue with the verb (train or crossval) that started it."
        )
    if study.data.digest() != directory.record()["data_sha256"]:
        raise DataError(
            f"The manifest gives other sites, splits or covariates than when {directory.path} was started. "
            "Restore it, or start a new run in another folder."
        )
    return plan


def audit_plan(
    study: Study[Any, Any], plan: Plan, inventory: Inventory, accept: Sequence[str], before: Seen | None = None
) -> Audit:
    """Look for leaks between the parts of a plan, and for tested cases that were seen before."""
    used = {name for fold in plan.folds for ids in fold.parts.values() for name in ids}
    given = any(case.split.casefold() in VALIDATION for case in study.cases if case.id in used)
    # A validation part that the manifest gives may share groups with training, which a drawn one never does.
    divisions = [("", plan.folds[0].parts)] if plan.scheme == "predefined" and given else fold_divisions(plan.folds)
    if study.held_out:
        # The networks of all folds will be tested on them together.
        held = tuple(case.id for case in study.held_out)
        divisions.append(("", {"the folds": tuple(sorted(used)), "held-out test": held}))
    found = study.audit(divisions, inventory).accepting(accept)
    if before is None or not (before.cases or before.unknown):
        return found
    parts = {case.id: "held-out test" for case in study.held_out}
    parts |= {name: f"fold {fold.index} test" for fold in reversed(plan.folds) for name in fold.test}
    planned = {case.id: case.fingerprint for case in plan.cases}
    tested = [
        (study.by_id[case.id], case.known_as("plan", planned.get(case.id, "")), parts[case.id])
        for case in study.seen_cases(inventory)
        if case.id in parts
    ]
    described = bool(before.cases) and all(case.descriptor is not None for case in before.cases)
    return found.with_seen(find_seen(tested, before.cases, study.comparison), before.unknown, described=described)


def seen_before(directory: RunDirectory, study: Study[Any, Any], start: Start | None, reporter: Reporter) -> Seen:
    """What the networks of a run see, or saw, besides its folds: in pretraining, or in the run that they start from.

    Raises:
        DataError: Cases that pretraining may see cannot be used.
        CheckpointError: The pretrained encoder does not say what it has seen.
    """
    wanted, found = study.config.pretraining, Seen() if start is None else start.record.seen
    if study.extra is not None:
        inventory = study.extra.inspect(directory.extra_inventory, reporter)
        require_usable(study.extra.problems(inventory))
        if unseen := [case.id for case in study.extra.cases if is_test(case.split)]:
            reporter.line(f"Pretraining sees {len(unseen)} test row(s) of {wanted.extra} ({some(unseen)}), unlabeled.")
        where = f"pretraining on {Path(wanted.extra).name}"
        found = found.plus(Seen([replace(case, where=where) for case in study.extra.seen_cases(inventory)]))
    if wanted.weights:
        found = found.plus(Seen(read_seen(wanted.weights, study.config.task)))
    return found if start is not None else found.plus(seen_by_encoder(study.config))
