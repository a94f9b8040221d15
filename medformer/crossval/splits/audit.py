"""The leakage and balance of a split that somebody else made, without any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.plan.balance import ONLY, Balance, balance_of, format_balance, plan_warnings
from medformer.crossval.run.contract import Study
from medformer.crossval.splits.given import BoundSplit, GivenDivision, GivenSplit, bind
from medformer.data.audit import KINDS, Audit
from medformer.data.cases import Case
from medformer.data.inventory import Inventory
from medformer.data.problems import Problem, first_ten, require_usable
from medformer.errors import DataError, counted
from medformer.progress import Reporter

_ADVICE = (
    "Put all cases of a group, and those that show the same thing, into one part, or leave them out; `medformer TASK "
    "crossval` draws folds that do so."
)


@dataclass(frozen=True)
class SplitAudit:
    """What is known of a split.

    Attributes:
        data: What was named.
        task: Of the data.
        cases: Number of cases in the data.
        groups: Number of patients or sequences they come from.
        split: The split over these cases.
        audit: What is on both sides of it.
        balance: What each part consists of.
        unreadable: Cases whose data cannot be read, which nothing could be compared with.
        notes: What a reader must know, in sentences.
    """

    data: str
    task: str
    cases: int
    groups: int
    split: BoundSplit
    audit: Audit
    balance: Balance
    unreadable: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is on both sides that was not accepted by name."""
        return not self.audit.leaks

    def raise_if_leaking(self) -> None:
        """Fail unless the split is clean and every case could be compared.

        Raises:
            LeakageError: It leaks; the first ten findings are named.
            DataError: It does not, as far as can be told: some cases cannot be read.
        """
        self.audit.raise_if_leaking(_ADVICE)
        if self.unreadable:
            count = len({problem.case_id for problem in self.unreadable})
            raise DataError(
                f"{counted(count, 'case')} of {self.cases} cannot be read and could not be compared; nothing was found "
                f"among the others:{first_ten(self.unreadable)}\nRepair these files and audit again."
            )

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "format": "medformer-split-audit/1",
            "task": self.task,
            "cases": self.cases,
            "groups": self.groups,
            "split": {
                "form": self.split.split.form,
                "divisions": [
                    {
                        "name": division.label.strip(),
                        "repeat": division.repeat,
                        "parts": {part: len(ids) for part, ids in division.parts.items()},
                    }
                    for division in self.split.divisions
                ],
                "training_parts_assumed": self.split.split.assumed,
                "names_of_no_case": list(self.split.unknown),
                "cases_in_no_part": list(self.split.unplaced),
                "cases_in_two_parts": dict(self.split.doubled),
            },
            "notes": list(self.notes),
            "audit": self.audit.to_json(),
            "balance": self.balance_rows(),
            "unreadable": [problem.to_json() for problem in self.unreadable],
        }

    def balance_rows(self) -> list[dict[str, str]]:
        """The balance table, a mapping for each row."""
        return [dict(zip(self.balance.header, row, strict=True)) for row in self.balance.rows]

    def lines(self) -> Iterator[str]:
        """What was found, for a terminal."""
        split = self.split.split
        yield (
            f"{counted(self.cases, 'case')} of {counted(self.groups, 'group')} (task {self.task}); {split.source}: "
            f"{split.form}, {counted(len(split.divisions), 'division')}."
        )
        yield from (f"note: {note}" for note in self.notes)
        yield ""
        yield format_balance(self.balance)
        yield ""
        found = Counter(finding.kind for finding in self.audit.findings)
        for kind in self.audit.kinds:
            yield f"{KINDS[kind]} on both sides: {found[kind] or 'none'}"
        if self.audit.findings and self.clean:
            yield f"{counted(len(self.audit.findings), 'finding')}, accepted by name."


def audit_split(
    study: Study[Any, Any],
    split: GivenSplit,
    reporter: Reporter,
    *,
    data: str,
    labelled: bool,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> SplitAudit:
    """Look at a split of the cases of a study.

    Every pair of parts of a division is compared: training and validation too, because what is chosen on validation
    cases that were trained on is chosen by memory.

    Args:
        study: The cases; all are read.
        split: As its file spells it.
        reporter: Receives the progress.
        data: What to call the data.
        labelled: Whether every case has a mask or a label.
        accept: Names of findings that are accepted.
        notes: What is known of the data already.

    Raises:
        DataError: No name of the split is that of a case, one may mean several, or no case can be read.
        ConfigError: A name to be accepted is none.
    """
    bound = bind(split, study.cases)
    inventory = study.inspect(None, reporter)
    readable = [case for case in study.cases if "descriptor" in inventory[case.id].arrays]
    errors = [problem for problem in inventory.problems if problem.severity == "error"]
    kept = {case.id for case in readable}
    unreadable = tuple(problem for problem in errors if problem.case_id not in kept)
    if not readable:
        require_usable(errors)
    divisions = [_only(division, kept) for division in bound.divisions]
    audited = study.audit([(division.label, division.parts) for division in divisions], inventory).accepting(accept)
    cases = [_plan_case(study, case, inventory, labelled) for case in study.cases]
    balance = balance_of(cases, bound.divisions, names=[_called(division) for division in bound.divisions])
    others = len({problem.case_id for problem in errors} & kept)
    told = [
        *notes,
        *bound.notes,
        *(["Only the tested part of each fold is listed; all others are taken to be trained on."] * split.assumed),
        *(
            [f"{counted(others, 'case')} with other problems, which `medformer {study.config.task} check` lists."]
            * (others > 0)
        ),
        *_warnings(cases, bound),
    ]
    groups = len({case.group for case in study.cases})
    return SplitAudit(
        data, study.config.task, len(study.cases), groups, bound, audited, balance, unreadable, tuple(told)
    )


def _only(division: GivenDivision, kept: set[str]) -> GivenDivision:
    return replace(division, parts={part: tuple(n for n in ids if n in kept) for part, ids in division.parts.items()})


def _called(division: GivenDivision) -> str:
    """The division in a table, where a column is headed `fold`."""
    return division.label.strip().removeprefix("fold ") or ONLY


def _plan_case(study: Study[Any, Any], case: Case, inventory: Inventory, labelled: bool) -> PlanCase:
    """What is known of a case; of one that has a mask or label and no problem, also how much is labeled."""
    if labelled and not any(problem.severity == "error" for problem in inventory[case.id].problems):
        return study.plan_case(case, inventory[case.id])
    label = "" if case.label is None else str(case.label)
    return PlanCase(case.id, case.group, site=case.site, label=label, covariates=case.described)


def _warnings(cases: Sequence[PlanCase], bound: BoundSplit) -> list[str]:
    """What tested parts cannot give, where the split says what is tested."""
    if bound.doubled or any(division.tested is None for division in bound.split.folds):
        return []
    folds = bound.folds()
    placed = {name for fold in folds for ids in fold.parts.values() for name in ids}
    return plan_warnings(Plan("given", 0, tuple(case for case in cases if case.id in placed), folds))
