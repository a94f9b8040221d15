"""The last step of preparing a cohort: subjects who show one brain get one group, and the cohort's files say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medformer.data.connectomes.check import link_same_subject
from medformer.data.connectomes.cohort import PREPARATION_FILE, Cohort, read_cohort, write_cohort
from medformer.data.connectomes.prepare.cohort_preparation import EXCLUSIONS_FILE, Prepared
from medformer.data.problems import Problem, write_problems
from medformer.files import read_json, write_json


def join_same_brains(made: Prepared, folder: Path) -> tuple[Cohort, Sequence[Problem]]:
    """Join the groups of subjects who show one brain (see `link_same_subject`).

    Args:
        made: The preparation.
        folder: Where its files are; those that change are written again.

    Returns:
        The cohort with joined groups, and a warning for each pair.
    """
    cohort = read_cohort(made.manifest, unlabelled="allow")
    cases, same = link_same_subject(cohort)
    if same:
        write_cohort(folder, cases)
        write_problems(folder / EXCLUSIONS_FILE, [*made.problems, *same])
        noted = read_json(folder / PREPARATION_FILE)
        noted["warnings"]["same-brain"] = len(same)
        write_json(folder / PREPARATION_FILE, noted)
    return replace(cohort, cases=tuple(cases)), same
