"""The parts that a manifest gives: which rows are drawn into folds, and what is said of those that no fold has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.plan.schemes import draw_plan
from medformer.crossval.run.contract import Study
from medformer.crossval.run.directory import RunDirectory
from medformer.data.cases import Case, is_test
from medformer.data.manifest import write_manifest
from medformer.errors import DataError

VALIDATION = frozenset({"val", "validation"})
"""What a manifest calls the part that selects."""

_DRAWN = ("tr", "val", "dev", "fold", "part", *"0123456789")
"""How the names of parts begin that are known to be drawn into folds."""


def draw(study: Study[Any, Any], cases: Sequence[PlanCase]) -> Plan:
    """Draw the plan that the config asks for; the parts that the manifest gives count for the scheme `predefined`.

    Raises:
        DataError: No part is for training; and see `draw_plan`.
    """

    def named(wanted: Iterable[str]) -> list[str]:
        return [case.id for case in study.cases if case.split.casefold() in wanted]

    train = named({"train"}) or named({""})
    if study.crossval.scheme == "predefined" and not train:
        raise DataError(
            f"No row of {study.data.path} has the split `train`, or none; found {_parts(study.cases)}. Correct the "
            "column `split`, or empty it to train on every row."
        )
    return draw_plan(
        cases,
        study.crossval,
        seed=study.config.seed,
        train=train,
        validation=named(VALIDATION),
        test=[case.id for case in study.cases if is_test(case.split)],
    )


def held_out_note(study: Study[Any, Any]) -> list[str]:
    """What a reader must know of the test rows that no fold has; nothing without any.

    Raises:
        DataError: There are no other rows.
    """
    held_out = len(study.held_out)
    if not held_out:
        return []
    if held_out == len(study.cases):
        raise DataError(
            f"All {held_out} rows of {study.data.path} have a split that begins with `test`; expected others to train "
            "on. Empty the column `split` to cross-validate on them."
        )
    # Without their names: the report, its copy for others and the methods repeat it.
    return [
        f"{held_out} test row(s) of the data are held out: no fold and no pretraining sees them, and no number here is "
        "about them."
    ]


def unknown_part_notes(study: Study[Any, Any]) -> list[str]:
    """What a reader must know of rows with a split such as `holdout`, which is drawn into folds as every other."""
    if study.crossval.scheme == "predefined":
        return []
    cases = [case for case in study.cases if case.split and not is_test(case.split)]
    unknown = [case for case in cases if not case.split.casefold().startswith(_DRAWN)]
    if not unknown:
        return []
    parts = ", ".join(f"'{part}'" for part in dict.fromkeys(case.split for case in unknown))
    return [
        f"{len(unknown)} row(s) of the data have the split {parts}. They are drawn into folds as all others; only rows "
        "whose split begins with `test` are held out."
    ]


def hold_out(directory: RunDirectory, study: Study[Any, Any]) -> list[str]:
    """Write the test rows that no fold has into a manifest of their own, and say what can be done with them."""
    note, task = held_out_note(study), study.config.task
    if not note:
        return []
    source = directory.held_out_csv
    if all(case.image is not None for case in study.held_out):
        write_manifest(source, study.held_out)
    else:
        source = study.data.path
    return [
        *note,
        f"`medformer {task} train` on the same data trains one network without them and tests it on them.",
        f"To predict them when this run is done: medformer {task} predict {directory.path} {source} --out DIR",
    ]


def _parts(cases: Sequence[Case]) -> str:
    counts = Counter(case.split for case in cases)
    return ", ".join(f"{f'`{part}`' if part else 'no split'} in {count} row(s)" for part, count in counts.items())
