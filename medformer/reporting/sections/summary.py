"""One screen for a clinician: what was run, how good it is, how sure that is, and what to be wary of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medformer.reporting.blocks import (
    Block,
    Checks,
    KeyFact,
    KeyFacts,
    Notice,
    Section,
    Text,
    counted,
    interval,
    number,
)
from medformer.reporting.facts import Facts
from medformer.reporting.failures import FAILED_BELOW, failures
from medformer.reporting.results import LABELS, empty_rule, value
from medformer.reporting.sections import audit, baselines, canary, site_probe

FEW_GROUPS = 10
VERDICTS = (audit.verdict, baselines.verdict, canary.verdict, site_probe.verdict)


def build(facts: Facts) -> Section:
    """Summarize the run."""
    key_facts = _classified(facts) if facts.classification else _segmented(facts)
    verdicts = [found for judge in VERDICTS if (found := judge(facts)) is not None]
    blocks: list[Block] = [Text(_what_was_run(facts)), KeyFacts(key_facts), Text(_meaning(facts))]
    blocks += [Notice("warning", text) for text in warnings(facts)]
    blocks.append(Checks("Can the numbers be believed?", verdicts))
    blocks += [Notice("info", text) for text in notes(facts)]
    return Section("summary", "Summary", blocks)


def warnings(facts: Facts) -> Iterator[str]:
    """Yield what a reader must know before trusting the numbers."""
    if facts.edited:
        yield facts.edited
    if facts.stale:
        yield (
            "oof.csv was changed after metrics.json was computed from it; the numbers and the tables may disagree. "
            "Run `medformer report` again, or restore the table."
        )
    state = facts.record.get("state")
    if state in ("failed", "interrupted"):
        yield f"The run's last session ended as {state}: {facts.record.get('reason') or 'no reason recorded'}"
    groups = facts.groups
    if groups < FEW_GROUPS:
        yield (
            f"All {facts.noun}s come from {counted(groups, 'group')} only; the interval is unreliable below "
            f"{FEW_GROUPS}."
        )
    if facts.noun == "image" and groups == facts.cases:
        yield (
            "Every image counts as its own patient. If several images show the same patient or sequence, related "
            "images were on both sides of a split, and the interval is too narrow."
        )
    blank = sum(row.get("pred_px") == 0 and row.get("truth_px") != 0 for row in facts.first_rows)
    if blank:
        yield f"On {counted(blank, facts.noun)} with foreground, nothing was marked."


def notes(facts: Facts) -> Iterator[str]:
    """Yield what helps to read the numbers."""
    yield from facts.record.get("notes", ())
    empty = sum(row.get("truth_px") == 0 for row in facts.first_rows)
    if empty:
        rule = facts.metrics.get("definitions", {}).get("empty_policy", "")
        verb = "has" if empty == 1 else "have"
        yield f"{counted(empty, facts.noun)} {verb} no foreground in the reference. How Dice counts them: {rule}."


def _segmented(facts: Facts) -> list[KeyFact]:
    metrics, rule = facts.metrics["pooled"]["metrics"], empty_rule(facts.metrics)
    dice, iou = metrics["dice"], metrics["iou"]
    failed = sum(map(len, failures(facts.first_rows, facts.target).values()))
    middle = f"half of the {facts.noun}s {number(dice['q1'])} to {number(dice['q3'])}"
    return [
        KeyFact(f"mean Dice{rule}", number(dice["mean"]), f"95% interval {interval(dice)}"),
        KeyFact("median Dice", number(dice["median"]), middle),
        KeyFact("mean IoU", number(iou["mean"]), f"95% interval {interval(iou)}"),
        KeyFact(
            f"failed {facts.noun}s",
            f"{failed:,} of {facts.cases:,}",
            f"nothing marked, a false alarm, or Dice below {FAILED_BELOW}",
        ),
    ]


def _classified(facts: Facts) -> list[KeyFact]:
    pooled = facts.metrics["pooled"]
    shown = ("auc", "balanced_accuracy", "sensitivity", "specificity")
    return [
        KeyFact(LABELS[name], number(value(pooled, name)), f"95% interval {interval(pooled['metrics'].get(name))}")
        for name in shown
    ]


def _what_was_run(facts: Facts) -> str:
    model = facts.config.get("model", {})
    name = str(model.get("name") or "A model")
    # A peer's name holds its encoder; our backbone key is not used then.
    if model.get("backbone") and ":" not in name:
        name += f" with {model['backbone']}"
    sites = f", {counted(len(facts.sites), 'site')}" if facts.sites else ""
    groups = "" if facts.groups == facts.cases else f" from {counted(facts.groups, 'group')} (patients or sequences)"
    cohort = f"{counted(facts.cases, facts.noun)}{groups}{sites}"
    if facts.folds > 1:
        folds = facts.folds // facts.repeats
        repeated = f", repeated {facts.repeats} times," if facts.repeats > 1 else ""
        done = "scored by a model" if facts.classification else "segmented by a network"
        return (
            f"{name} was trained and tested in {folds}-fold cross-validation{repeated} on {cohort}. Each {facts.noun} "
            f"was {done} that had seen no {facts.noun} of its group: the numbers below are for unseen groups."
        )
    return f"{name} was tested on {cohort}, none of which it was trained on."


def _meaning(facts: Facts) -> str:
    text = _scores(facts.metrics["pooled"]) if facts.classification else _overlaps(facts)
    text += (
        " The intervals say how far a number could move with other patients of the same kind; they say nothing about "
        "other hospitals or devices."
    )
    return text


def _overlaps(facts: Facts) -> str:
    mean = facts.metrics["pooled"]["metrics"]["iou"]["mean"]
    area = "volume" if facts.labels else "area"
    text = f"Dice is 1 where the predicted {area} equals the reference and 0 where they do not touch."
    if len(facts.labels) > 1:
        text += f" The number of a {facts.noun} is the mean over its labels: {', '.join(facts.labels)}."
    if number(mean) != "–":
        text += (
            f" A mean IoU of {number(mean, 2)} says that, of the {area} marked by either, on average {100 * mean:.0f}% "
            "is marked by both."
        )
    return text


def _scores(pooled: Mapping[str, Any]) -> str:
    auc = value(pooled, "auc")
    text = ""
    if number(auc) != "–":
        text = (
            f"An AUC of {number(auc, 2)} says that, of a positive and a negative case drawn at random, the positive "
            f"one has the higher score {100 * auc:.0f}% of the time; a coin reaches 50%. "
        )
    return (
        f"{text}Sensitivity is the share of positive cases that are recognized, specificity the share of negative "
        "cases that are left alone, both at a threshold chosen on training data."
    )
