"""The fold plan: which cases train, select and test in each fold, frozen in a hashed file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medformer.errors import DataError
from medformer.files import digest, write_json
from medformer.records import Content, checked, read_record

FORMAT = "medformer-plan/2"


@dataclass(frozen=True)
class PlanCase:
    """What planning needs to know about a case.

    Attributes:
        id: Unique name.
        group: Patient, sequence or anything else that must stay on one side of a split.
        stratum: Label of what the folds are balanced by, e.g. `"kvasir|2"`.
        fingerprint: Hash of the case's data; a plan is refused when it changed.
        site: Hospital or dataset; empty when not known.
        label: Class; empty in a segmentation task.
        covariates: What else is known, such as age, sex or size, as text.
    """

    id: str
    group: str
    stratum: str = ""
    fingerprint: str = ""
    site: str = ""
    label: str = ""
    covariates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fold:
    """One fold: ids that train the model, ids that select epochs and thresholds, ids that are only predicted."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    repeat: int = 0

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Plan:
    """A frozen plan over a set of cases.

    Attributes:
        scheme: How it was drawn.
        seed: The run's seed it was drawn with.
        cases: Every case, in manifest order.
        folds: The folds, `folds[k].index == k`; those of all repeats are numbered through.
        settings: What else is needed to say how it was drawn, as plain data: `folds`, `repeats`, `validation` and
            `test` (shares), `stratify` (columns), `bins`, `left_out` (the column whose values are left out one by one).
    """

    scheme: str
    seed: int
    cases: tuple[PlanCase, ...]
    folds: tuple[Fold, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_unique(self.cases)
        known = {case.id for case in self.cases}
        for position, fold in enumerate(self.folds):
            listed = [*fold.train, *fold.validation, *fold.test]
            twice = [name for name, count in Counter(listed).items() if count > 1]
            unknown = sorted(set(listed) - known)
            if fold.index != position:
                raise DataError(f"The plan's fold {position} is numbered {fold.index}; expected folds numbered from 0.")
            if twice:
                raise DataError(f"Fold {fold.index} lists {some(twice)} more than once; a case has one part per fold.")
            if unknown:
                raise DataError(f"Fold {fold.index} lists {some(unknown)}, which the plan's cases do not contain.")

    def digest(self) -> str:
        """SHA-256 over everything in the plan."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # Every fold asks for it, and it covers the parts of all.
        return digest(_content(self))

    def data_digest(self) -> str:
        """SHA-256 over everything that `check_data` compares, whatever the order of the cases."""
        return digest(sorted([case.id, *self._frozen_facts(case).values()] for case in self.cases))

    def check_data(self, cases: Iterable[PlanCase]) -> None:
        """Refuse the plan when the data are not the ones it was drawn for.

        Raises:
            DataError: Ids, groups, sites, labels, fingerprints, or covariates that the plan was drawn by differ; lists
                the difference.
        """
        found = [f"{len(names)} {what} ({some(names)})" for what, names in self.differences(cases).items() if names]
        if found:
            raise DataError(
                f"The data are not the ones this plan was drawn for: cases {'; '.join(found)}. "
                "Restore the data, or start a new run in another folder so that a new plan is drawn."
            )

    def differences(self, cases: Iterable[PlanCase]) -> dict[str, list[str]]:
        """List the ids of cases that differ from the plan's, by what is different.

        Raises:
            DataError: Repeated ids.
        """
        cases = list(cases)
        check_unique(cases)
        before = {case.id: self._frozen_facts(case) for case in self.cases}
        after = {case.id: self._frozen_facts(case) for case in cases}
        found = {
            "no longer there": [name for name in before if name not in after],
            "new": [name for name in after if name not in before],
        }
        for name in before:
            for what, value in before[name].items():
                if name in after and after[name][what] != value:
                    found.setdefault(what, []).append(name)
        return found

    def _frozen_facts(self, case: PlanCase) -> dict[str, str]:
        """What must not change about a case, keyed by the words that report a change."""
        drawn_by = {*self.settings.get("stratify", ()), self.settings.get("left_out", "site")} - {"site", "label"}
        return {
            "in another group": case.group,
            "at another site": case.site,
            "with another label": case.label,
            "with changed content": case.fingerprint,
            **{f"with another {name}": case.covariates.get(name, "") for name in sorted(drawn_by)},
        }


def write_plan(path: Path, plan: Plan) -> None:
    """Write the plan with its SHA-256, so that a later edit is noticed."""
    write_json(path, {**_content(plan), "data_sha256": plan.data_digest(), "sha256": plan.digest()})


_RESTORE = "Restore the file, or start a new run, which writes another plan."


class _Format(Content):
    format: str


class _Content(Content):
    scheme: str
    seed: int
    cases: list[PlanCase]
    folds: list[Fold]
    settings: dict[str, Any]
    sha256: str


def read_plan(path: Path) -> Plan:
    """Read a plan and verify its hash.

    Raises:
        DataError: The file is missing, is not a plan, or was changed after it was written.
    """
    found = read_record(path, _Format, _RESTORE)
    if found.format != FORMAT:
        raise DataError(
            f"{path} has format {found.format!r}; expected {FORMAT!r}. Read it with the version of medformer that "
            "wrote it, or start a new run."
        )
    content = checked(found.plain, _Content, path, _RESTORE)
    try:
        plan = Plan(content.scheme, content.seed, tuple(content.cases), tuple(content.folds), content.settings)
    except DataError as error:
        raise DataError(f"{path} is no fold plan: {error} {_RESTORE}") from None
    recorded = content.sha256
    if plan.digest() != recorded:
        raise DataError(
            f"{path} was changed after it was written: its content has SHA-256 {plan.digest()[:12]}, it records "
            f"{recorded[:12]}. Plans are frozen; restore the file, or start a new run to draw another plan."
        )
    return plan


def check_unique(cases: Sequence[PlanCase]) -> None:
    """Raise `DataError` naming the ids that occur more than once."""
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise DataError(f"Case ids must be unique; {some(twice)} occur more than once. Rename them in the manifest.")


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _content(plan: Plan) -> dict[str, Any]:
    # What `asdict` gives, which copies each name on its own.
    return {
        "format": FORMAT,
        "scheme": plan.scheme,
        "seed": plan.seed,
        "cases": [{**vars(case), "covariates": dict(case.covariates)} for case in plan.cases],
        "folds": [vars(fold) for fold in plan.folds],
        "settings": dict(plan.settings),
    }
