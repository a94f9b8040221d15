"""Comparisons in words and as a table, for a terminal of any kind: plain characters, at most 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from medformer.crossval.compare.result import METHODS, Comparison, Outcome
from medformer.errors import counted
from medformer.evaluation.number_format import PLAIN, shorten

WIDTH = 100
_ALPHA = 0.05

# A space at which no line is broken.
_KEPT = "\N{NO-BREAK SPACE}"


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """The table, and below it each comparison in words."""
    return "\n\n".join([format_table(comparisons), *map(format_comparison, comparisons)])


def format_comparison(comparison: Comparison) -> str:
    """Describe a comparison in words: its result, its uncertainty, what may be concluded, and cautions."""
    c = comparison
    first, *others = c.outcomes
    lower = ", lower is better" if c.lower_is_better else ""
    cases = f"{counted(c.cases, 'case')} of {counted(c.groups, 'group')}"
    repeats = f", {c.repeats} repeats" if c.repeats > 1 else ""
    seen = (
        f"{c.name_b} against {c.name_a}: {_folds(c)}{c.title} {PLAIN.number(c.value_b, c.digits)} against "
        f"{PLAIN.number(c.value_a, c.digits)}{lower}, on the same {cases}{repeats}; "
        f"difference {_tested(c, first)}, by {METHODS[first.method]}."
    )
    points = [*(f"By {METHODS[other.method]}: {_tested(c, other)}." for other in others), reading(c)]
    points += [c.configs] if c.configs else []
    points += [f"Caution: {caution}" for caution in c.cautions]
    return "\n".join([_wrap(seen, hang="  "), *(_wrap(f"  - {point}", hang="    ") for point in points)])


def format_table(comparisons: Sequence[Comparison]) -> str:
    """One line per comparison, below one for the run that all are compared with."""
    first = comparisons[0]
    common = len({comparison.run_a for comparison in comparisons}) == 1
    same_b = len({comparison.run_b for comparison in comparisons}) == 1
    header = ("run", "value", "diff.", f"{first.level:.0%} interval", "p", "Holm", "fold p", "Holm", "folds")
    rows: list[tuple[str, ...]] = (
        [(first.name_a, PLAIN.number(first.value_a, first.digits), *[""] * 7)] if common else []
    )
    for c in comparisons:
        folds = c.fold_test
        rows.append(
            (
                c.name_b if common else f"{'' if same_b else f'{c.name_b} '}against {c.name_a}",
                PLAIN.number(c.value_b, c.digits),
                PLAIN.signed(c.difference, c.digits),
                # The line below the table says why there is none.
                PLAIN.interval(c.low, c.high, c.digits, signed=True, reason="below" if c.no_interval else ""),
                PLAIN.p_value(c.p),
                PLAIN.p_value(c.p_holm),
                PLAIN.p_value(folds.p if folds else math.nan),
                PLAIN.p_value(folds.p_holm if folds else math.nan),
                f"{c.folds_won}/{c.folds_lost}/{c.folds_tied}" if c.folds else "-",
            )
        )
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(1, len(header))]
    longest = WIDTH - sum(2 + width for width in widths)
    cells = [header, *((shorten(name, longest), *rest) for name, *rest in rows)]
    widths.insert(0, max(len(row[0]) for row in cells))
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    lower = ", lower is better" if first.lower_is_better else ""
    compared = f"; differences from {first.name_a}" if common else f"; of {first.name_b}" if same_b else ""
    methods = "; ".join(dict.fromkeys(METHODS[c.test] for c in comparisons))
    title = _wrap(
        f"{first.title[0].upper()}{first.title[1:]}{lower}{compared}. Interval and p: {methods}. "
        f"Fold p: {METHODS['folds']}. Holm: p adjusted for {counted(len(comparisons), 'comparison')}. "
        "Folds: won/lost/tied."
    )
    return "\n".join([title, "", lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def reading(comparison: Comparison) -> str:
    """The conclusion that the numbers allow, and no more."""
    c = comparison
    if c.identical:
        return "The two are the same in every case, so there is nothing to test."
    if not math.isfinite(c.low):
        because = f" ({c.no_interval})" if c.no_interval else ""
        return f"No interval can be given{because}, so nothing can be said about chance."
    if c.low <= 0 <= c.high:
        return "These cases do not tell the two apart; that is no evidence that they are equally good."
    if c.p_holm >= _ALPHA:
        return (
            f"Alone, the interval excludes 0; among {counted(c.together, 'comparison')} a difference like this is "
            "not unusual by chance."
        )
    better = c.name_b if (c.difference > 0) != c.lower_is_better else c.name_a
    drawn = "cases" if c.test == "delong" else "groups"
    said = f"{better} is better here by more than drawing other {drawn} would explain"
    if c.fold_test is not None and c.fold_test.p_holm >= _ALPHA:
        return f"{said}, but the test over folds, in which training varies too, does not exclude 0."
    return f"{said}; whether that holds for data from elsewhere was not tested."


def _tested(c: Comparison, outcome: Outcome) -> str:
    if not math.isfinite(outcome.low):
        # A p-value of 1 for what does not differ says no more than its reason.
        without = "no interval" if outcome.p == 1 else "neither interval nor p"
        because = f": {outcome.no_interval}" if outcome.no_interval else ""
        return f"{PLAIN.signed(outcome.difference, c.digits)} ({without}{because})"
    p = PLAIN.p_value(outcome.p)
    chance = f"p {p}" if p.startswith("<") else f"p = {p}"
    if c.together > 1:
        chance += f", Holm-adjusted {PLAIN.p_value(outcome.p_holm)}"
    contains = "includes" if outcome.low <= 0 <= outcome.high else "excludes"
    interval = f"{c.level:.0%} interval {PLAIN.interval(outcome.low, outcome.high, c.digits, signed=True)}"
    return f"{PLAIN.signed(outcome.difference, c.digits)} ({interval}, {contains} 0; {chance})"


def _folds(c: Comparison) -> str:
    if not c.folds:
        return ""
    counts = [f"{count} {what}" for count, what in ((c.folds_lost, "worse"), (c.folds_tied, "tied")) if count]
    rest = f" ({', '.join(counts)})" if counts else ""
    return f"better on {c.folds_won} of {counted(c.folds, 'fold')}{rest}; "


def _wrap(text: str, hang: str = "") -> str:
    """Break lines, but not between `p`, `=` and its number."""
    kept = text.replace("p = ", f"p{_KEPT}={_KEPT}").replace("p <", f"p{_KEPT}<")
    lines = textwrap.fill(kept, WIDTH, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)
    return lines.replace(_KEPT, " ")
