"""One screen for a clinician: what was run, how good it is, how sure that is, and what to be wary of."""

from __future__ import annotations

from collections.abc import Iterator

from medformer.reporting.blocks import Block, KeyFact, KeyFacts, Notice, Section, Text, counted, interval, number
from medformer.reporting.facts import Facts, accepted_findings

FEW_GROUPS = 10
POOR = 0.5


def build(facts: Facts) -> Section:
    """Summarize the run."""
    pooled = facts.metrics["pooled"]
    dice, iou = pooled["metrics"]["dice"], pooled["metrics"]["iou"]
    poor = sum(row["dice"] < POOR for row in facts.rows)
    key_facts = [
        KeyFact("mean Dice", number(dice["mean"]), f"95% interval {interval(dice)}"),
        KeyFact(
            "median Dice", number(dice["median"]), f"half of the images {number(dice['q1'])} to {number(dice['q3'])}"
        ),
        KeyFact("mean IoU", number(iou["mean"]), f"95% interval {interval(iou)}"),
        KeyFact(f"Dice below {POOR}", f"{poor:,}", f"of {counted(len(facts.rows), 'image')}"),
    ]
    blocks: list[Block] = [Text(_what_was_run(facts)), KeyFacts(key_facts), Text(_meaning(facts))]
    blocks += [Notice("warning", text) for text in warnings(facts)]
    blocks += [Notice("info", text) for text in notes(facts)]
    return Section("summary", "Summary", blocks)


def warnings(facts: Facts) -> Iterator[str]:
    """Yield what a reader must know before trusting the numbers."""
    if facts.stale:
        yield (
            "oof.csv was changed after metrics.json was computed from it; the numbers and the tables may disagree. "
            "Run `medformer report` again, or restore the table."
        )
    accepted = facts.record.get("accepted_leaks", ())
    if accepted:
        found = len(accepted_findings(facts.audit))
        yield (
            f"The user accepted leaks between training and test data ({', '.join(map(str, accepted))}: "
            f"{counted(found, 'finding')}, see the audit). The numbers may be too good."
        )
    state = facts.record.get("state")
    if state in ("failed", "interrupted"):
        yield f"The run's last session ended as {state}: {facts.record.get('reason') or 'no reason recorded'}"
    groups = facts.groups
    if groups < FEW_GROUPS:
        yield f"All images come from {counted(groups, 'group')} only; the interval is unreliable below {FEW_GROUPS}."
    if groups == len(facts.rows):
        yield (
            "Every image counts as its own patient. If several images show the same patient or sequence, related "
            "images were on both sides of a split, and the interval is too narrow."
        )
    blank = sum(row.get("pred_px") == 0 and row.get("truth_px") != 0 for row in facts.rows)
    if blank:
        yield f"On {counted(blank, 'image')} with foreground, nothing was marked."


def notes(facts: Facts) -> Iterator[str]:
    """Yield what helps to read the numbers."""
    yield from facts.record.get("notes", ())
    empty = sum(row.get("truth_px") == 0 for row in facts.rows)
    if empty:
        rule = facts.metrics.get("definitions", {}).get("empty_policy", "")
        verb = "has" if empty == 1 else "have"
        yield f"{counted(empty, 'image')} {verb} no foreground in the reference. How Dice counts them: {rule}."


def _what_was_run(facts: Facts) -> str:
    model = facts.config.get("model", {})
    name = str(model.get("name") or "A network")
    # A peer's name holds its encoder; our backbone key is not used then.
    if model.get("backbone") and ":" not in name:
        name += f" with {model['backbone']}"
    sites = f", {counted(len(facts.sites), 'site')}" if facts.sites else ""
    cohort = f"{counted(len(facts.rows), 'image')} from {counted(facts.groups, 'group')} (patients or sequences){sites}"
    folds = len({row["fold"] for row in facts.rows if "fold" in row})
    if folds > 1:
        return (
            f"{name} was trained and tested in {folds}-fold cross-validation on {cohort}. Each image was segmented by "
            "a network that had seen no image of its group: the numbers below are for unseen groups."
        )
    return f"{name} was tested on {cohort}, none of which it was trained on."


def _meaning(facts: Facts) -> str:
    metrics = facts.metrics["pooled"]["metrics"]
    dice, iou = metrics["dice"], metrics["iou"]
    text = "Dice is 1 where the predicted area equals the reference and 0 where they do not touch."
    if number(iou["mean"]) != "–":
        text += (
            f" A mean IoU of {number(iou['mean'], 2)} says that, of the area marked by either, on average "
            f"{100 * iou['mean']:.0f}% is marked by both."
        )
    if interval(dice) != "–":
        text += (
            " The interval says how far the mean could move with other patients of the same kind "
            f"({facts.metrics.get('definitions', {}).get('interval', '')}); it says nothing about other "
            "hospitals or devices."
        )
    return text
