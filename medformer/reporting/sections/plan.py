"""The fold plan in counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medformer.crossval.plan import Plan
from medformer.reporting.blocks import Block, Section, Table, Text, counted
from medformer.reporting.facts import Facts

MOST_STRATA = 10


def build(facts: Facts) -> Section | None:
    """Tabulate how many cases and groups each part of each fold has."""
    if facts.plan is None:
        return None
    plan = facts.plan
    group = {case.id: case.group for case in plan.cases}

    def cell(ids: Sequence[str]) -> str:
        return f"{len(ids):,} / {len({group[name] for name in ids}):,}"

    rows = [[str(fold.index), *(cell(ids) for ids in fold.parts.values())] for fold in plan.folds]
    header = ["Fold", "Training", "Inner validation", "Test"]
    scheme = plan.scheme.replace("-", " ").replace("k fold", "k-fold")
    text = (
        f"Scheme: {scheme}, seed {plan.seed}, {counted(len(plan.cases), 'case')}. The plan is "
        f"frozen in splits.json (SHA-256 {plan.digest()[:16]}…); a group is always on one side of a split, unless the "
        "plan was predefined."
    )
    blocks: list[Block] = [Text(text), Table("Cases / groups in each part", header, rows)]
    balance = _balance(plan)
    if balance is not None:
        blocks.append(balance)
    return Section("plan", "Fold plan", blocks)


def _balance(plan: Plan) -> Table | None:
    stratum = {case.id: case.stratum for case in plan.cases}
    names = sorted({name for name in stratum.values() if name})
    if not 1 < len(names) <= MOST_STRATA or not any(fold.test for fold in plan.folds):
        return None
    rows = []
    for fold in plan.folds:
        counts = Counter(stratum[name] for name in fold.test)
        rows.append([str(fold.index), *(f"{counts[name]:,}" for name in names)])
    return Table("Test cases per stratum: what the folds are balanced by", ["Fold", *names], rows)
