"""The permutation canary: with exchanged labels there is nothing to learn, so what is left must come from a leak."""

from __future__ import annotations

from medformer.crossval.checks.canary import CanaryVerdict
from medformer.reporting.blocks import Block, Figure, Level, Notice, Section, Table, Text, Verdict, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import forest

SECTION = "Permutation canary"
TITLE = "Permuted labels"
LEVELS: dict[str, Level] = {"at chance": "ok", "leak suspected": "warning", "cannot tell": "info"}


def build(facts: Facts) -> Section | None:
    """Show the permuted result beside the real one."""
    (found, problem), judged = facts.canary_verdict, verdict(facts)
    if judged is None:
        return None
    if found is None:
        return Section("canary", SECTION, [Notice("warning", f"The canary could not be judged: {problem}")])
    expected = "the score of a guess, 0.5"
    if not facts.classification:
        expected = "what the average training mask scores (the baseline that knows only where lesions usually are)"
    table = Table(
        "The permuted result beside the real one",
        ["Labels", found.measure, "Range without a leak"],
        [
            ["Real", number(found.real), "–"],
            ["Permuted", number(found.value), "–"],
            ["Permuted, as expected", number(found.expected), _range(found)],
        ],
        sortable=False,
    )
    blocks: list[Block] = [
        Text(
            "The same folds were run again after the labels had been exchanged between groups. What is learned from "
            f"the training part then says nothing about the test part, and the result has to be near {expected}. A "
            "result above the expected range means that the answers of the test part reached the training."
        ),
        Notice(judged.level, found.text),
        _figure(found),
        table,
        Text(
            "A quiet canary is no proof: it does not hear a step that saw the test cases but not their labels, nor the "
            "same patient on both sides of a split. The audit looks for the latter."
        ),
    ]
    return Section("canary", SECTION, blocks)


def verdict(facts: Facts) -> Verdict | None:
    """Say whether the permuted result is where it has to be."""
    found, problem = facts.canary_verdict
    if found is None:
        return Verdict("warning", TITLE, f"they could not be judged: {problem}", "canary") if problem else None
    numbers = f"{found.measure} {number(found.value)} instead of {number(found.real)}"
    if found.answer == "at chance" and found.real is not None and found.real <= found.high:
        text = (
            f"quiet, but with so few cases a leak would not be heard: {numbers}, expected up to {number(found.high)}."
        )
        return Verdict("info", TITLE, text, "canary")
    words = {
        "at chance": f"nothing is learned from them, as it has to be: {numbers}.",
        "leak suspected": f"a leak is suspected: {numbers}, where at most {number(found.high)} is expected.",
        "cannot tell": f"no verdict is possible: {numbers}.",
    }
    return Verdict(LEVELS[found.answer], TITLE, words[found.answer], "canary")


def _range(found: CanaryVerdict) -> str:
    return "–" if number(found.high) == "–" else f"{number(found.low)} to {number(found.high)}"


def _figure(found: CanaryVerdict) -> Figure:
    nan = float("nan")
    rows = [
        ("Real labels", found.real if found.real is not None else nan, nan, nan),
        ("Permuted labels", found.value, nan, nan),
        ("Expected without a leak", found.expected, found.low, found.high),
    ]
    alt = (
        f"{found.measure}: {number(found.real)} with the real labels, {number(found.value)} with permuted labels; "
        f"without a leak {number(found.expected)} is expected, in the range {_range(found)}."
    )
    caption = (
        f"{found.measure} with real and with permuted labels. The bar is the range in which {found.level:.0%} of runs "
        "on permuted labels stay when nothing leaks."
    )
    drawn = [row for row in rows if number(row[1]) != "–"]
    reference = found.expected if number(found.expected) != "–" else found.value
    return Figure(forest("canary", drawn, xlabel=found.measure, reference=reference), alt, caption)
