"""The fold plan: its scheme, how alike its parts are, and what its test parts cannot tell."""

from __future__ import annotations

from medformer.crossval.plan.balance import balance_table, plan_warnings
from medformer.reporting.blocks import Block, Notice, Section, Table, Text, counted, short
from medformer.reporting.facts import Facts

MOST_ROWS = 90
LONGEST_NAME = 24


def build(facts: Facts) -> Section | None:
    """Tabulate what each part of each fold consists of."""
    if facts.plan is None:
        return None
    plan = facts.plan
    scheme = plan.scheme.replace("-", " ").replace("k fold", "k-fold")
    text = (
        f"Scheme: {scheme}, {counted(len(plan.folds), 'fold')}, seed {plan.seed}, {counted(len(plan.cases), 'case')}. "
        f"The plan is frozen in splits.json (SHA-256 {plan.digest()[:16]}…); a group is always on one side of a split, "
        f"unless the plan was predefined. Training fits the model, the inner validation part chooses the epoch"
        f"{' and the threshold' if facts.thresholded else ''}, and the test part is only predicted."
    )
    balance = balance_table(plan)
    whole, *parts = balance.rows
    caption = "Balance: what each part of each fold consists of"
    if len(parts) > MOST_ROWS:
        tests = [row for row, part in zip(parts, balance.parts[1:], strict=True) if part.part == "test"]
        parts = tests[:MOST_ROWS]
        first = f" of the first {MOST_ROWS} folds" if len(tests) > MOST_ROWS else ""
        caption = f"Balance: what the test parts{first} consist of; splits.json has all parts"
    text_columns = 1 + balance.header.index("Part")
    blocks: list[Block] = [Text(text), *(Notice("warning", warning) for warning in plan_warnings(plan))]
    header = [short(name, LONGEST_NAME) for name in balance.header]
    blocks += [Table(caption, header, parts, text_columns, total=whole), Text(balance.hint)]
    return Section("plan", "Fold plan", blocks)
