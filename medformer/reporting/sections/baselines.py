"""Is the model worth it? The same numbers for simple methods on the same folds."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medformer.crossval.compare.result import METHODS, Comparison
from medformer.crossval.compare.text import reading
from medformer.evaluation.number_format import PRINTED
from medformer.reporting.blocks import (
    Block,
    Listing,
    Notice,
    Section,
    Table,
    Text,
    Verdict,
    counted,
    interval,
    number,
    signed,
)
from medformer.reporting.facts import Facts
from medformer.reporting.figures.comparison import comparison_block
from medformer.reporting.results import headline, label, primary, value

ALPHA = 0.05
TITLE = "Comparison with baselines"


def build(facts: Facts) -> Section | None:
    """Tabulate and draw the model's lead over each baseline."""
    if not facts.baselines:
        return None
    name, what = primary(facts.metrics), headline(facts.metrics)
    compared, problems = facts.comparisons
    nothing = ["–"] * 6
    rows = [["This model", *_own(facts.metrics["pooled"]["metrics"].get(name)), *nothing]]
    for baseline, sub in facts.baselines.items():
        lead = compared.get(baseline)
        own = _own(sub.metrics["pooled"]["metrics"].get(name))
        rows.append([baseline, *own, *(_lead(lead) if lead else nothing)])
    header = [
        "Method",
        label(name, facts.metrics) if facts.classification else f"Mean {label(name, facts.metrics)}",
        "95% interval",
        "Lead of the model",
        "95% interval of the lead",
        "p",
        "p (Holm)",
        "p over folds (Holm)",
        "Folds won",
    ]
    blocks: list[Block] = [
        Text(
            "Each baseline was trained and tested on the same folds as the model and scored by the same rules. The "
            f"lead is the model's {what} minus the baseline's, on the same {facts.noun}s."
        )
    ]
    if compared:
        blocks.append(comparison_block("baselines", list(compared.values())))
    blocks.append(Table("The model and the baselines on the same folds", header, rows))
    if compared:
        blocks.append(Listing([f"Over {baseline}: {reading(lead)}" for baseline, lead in compared.items()]))
        blocks.append(Text(_tests(compared)))
    notes = [caution for lead in compared.values() for caution in lead.cautions]
    notes += [f"{baseline} was not compared: {problem}" for baseline, problem in problems.items()]
    blocks += [Notice("info", note) for note in dict.fromkeys(notes)]
    return Section("baselines", TITLE, blocks)


def verdict(facts: Facts) -> Verdict | None:
    """Say whether the model beats its strongest baseline."""
    if not facts.baselines:
        return None
    compared, _ = facts.comparisons
    name, what = primary(facts.metrics), headline(facts.metrics)
    known = {
        baseline: found
        for baseline, sub in facts.baselines.items()
        if baseline in compared and math.isfinite(found := value(sub.metrics["pooled"], name))
    }
    if not known:
        return Verdict("warning", TITLE, "no baseline could be compared with the model.", "baselines")
    best = max(known, key=lambda baseline: known[baseline])
    lead = compared[best]
    own = value(facts.metrics["pooled"], name)
    numbers = (
        f"{what} {number(own)} against {number(known[best])} of {best}, the best of "
        f"{counted(len(known), 'baseline')}; lead {signed(lead.difference)}, 95% interval {signed(lead.low)} to "
        f"{signed(lead.high)}"
    )
    if lead.low > 0 and lead.p_holm < ALPHA:
        unsure = lead.fold_test is not None and not lead.fold_test.p_holm < ALPHA
        numbers += "; the test over folds does not exclude 0" if unsure else ""
        return Verdict("ok", TITLE, f"the model is better: {numbers}.", "baselines")
    if lead.high < 0:
        return Verdict("warning", TITLE, f"the model is worse than a baseline: {numbers}.", "baselines")
    return Verdict("warning", TITLE, f"no clear lead over the best baseline: {numbers}.", "baselines")


def _tests(compared: Mapping[str, Comparison]) -> str:
    methods = "; ".join(dict.fromkeys(METHODS[lead.test] for lead in compared.values()))
    return (
        f"Interval and p: {methods}. p over folds: {METHODS['folds']}. Holm: adjusted for "
        f"{counted(len(compared), 'comparison')} made together."
    )


def _own(part: object) -> list[str]:
    return [number(value({"metrics": {"it": part}}, "it")), interval(part)]


def _lead(lead: Comparison) -> list[str]:
    return [
        signed(lead.difference),
        f"{signed(lead.low)} to {signed(lead.high)}" if number(lead.low) != "–" else "–",
        PRINTED.p_value(lead.p),
        PRINTED.p_value(lead.p_holm),
        PRINTED.p_value(lead.fold_test.p_holm) if lead.fold_test else "–",
        f"{lead.folds_won} of {lead.folds}",
    ]
