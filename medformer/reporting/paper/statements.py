"""What a run can say of itself, in sentences that a paper can take over; the words are in a template.

A statement that a run's files do not carry is empty. What its author alone can know stands in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medformer.crossval.compare.result import METHODS
from medformer.crossval.plan.strata import column_cells
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import failures, value, written
from medformer.reporting.sections import Facts, checks_of
from medformer.reporting.sections.plans import volume_plan
from medformer.reporting.sections.results import subgroup_parts
from medformer.reporting.sections.training import validated
from medformer.reporting.wording import number, one_line, thousands

TEMPLATE = "sentences/statements.j2"
PLACEHOLDER = "[say "
"""How a placeholder in a statement begins."""

_CALIBRATION = ("brier", "calibration_slope", "calibration_intercept", "ece")
_DIAGNOSTIC = ("sensitivity", "specificity", "balanced_accuracy")


def statements_of(run: FinishedRun, facts: Mapping[str, Facts], templates: Environment) -> dict[str, Markup]:
    """Return what a run can say, by name; empty where it cannot.

    Args:
        run: The run.
        facts: Of its summary and its checks at least.
        templates: Those of HTML or of Markdown, which decides what is escaped.
    """
    module: Any = templates.get_template(TEMPLATE).make_module(_context(run, facts, templates))
    return {
        name: Markup(one_line(macro()))
        for name, macro in vars(module).items()
        if callable(macro) and not name.startswith("_")
    }


def _context(run: FinishedRun, facts: Mapping[str, Facts], templates: Environment) -> dict[str, Any]:
    metric = validated(run)
    return {
        "run": run,
        "summary": facts["summary"],
        "audited": facts["audit"],
        "findings": {check["key"]: check["finding"] for check in checks_of(run, facts, templates)},
        "settings": {name: run.config.get(name) or {} for name in _SECTIONS},
        "loss": _loss(run),
        "devices": _devices(run),
        "members": int(run.config.get("members") or 1),
        "pretrained": run.record.get("pretrained") or {},
        "recorded_weights": found if isinstance(found := run.record.get("weights"), Mapping) else None,
        "validation_metric": metric.label if metric else "",
        "measure": _measure(run),
        "volume": _volume(run),
        "augmented": _augmented(run.config.get("augment") or {}),
        "seen_before": run.seen_before,
        "used": _used(run),
        "balanced_by": _balanced_by(run),
        "sizes_of": _sizes(run),
        "written": {name: written(run, run.pooled, name) for name in run.metric_table},
        "metric_labels": [run.metric_table[name].label for name in run.pooled["metrics"]],
        "calibration_metrics": _calibration_metrics(run),
        "diagnostic_metrics": [name for name in _DIAGNOSTIC if name in run.pooled["metrics"]],
        "failed": {} if run.classification else {kind: len(rows) for kind, rows in failures(run.first_rows).items()},
        "wrong": _wrong(run) if run.classification else {},
        "tests_used": _tests(run),
        "splits": [title for _, title, parts in subgroup_parts(run) if len(parts) > 1],
        "centers_of": _centers(run),
    }


_SECTIONS = ("model", "data", "features", "training", "crossval", "inference", "pretraining")


def _loss(run: FinishedRun) -> str:
    """The name of the loss that was trained with."""
    given = run.config.get("loss")
    if isinstance(given, Mapping):
        # The config of volumes names the loss of label maps, which a classification does not use.
        return "cross_entropy" if run.classification else str(given.get("name") or "")
    return str(given or "")


def _measure(run: FinishedRun) -> Any:
    """The row of what a connection is; None where no connections are used."""
    from medformer.connectome.measures import MEASURES

    name = str((run.config.get("data") or {}).get("measure") or "")
    return MEASURES[name] if name in tuple(MEASURES) else None


def span(counts: Iterable[int]) -> str:
    """Write the smallest and the largest of some counts: `12 to 14`, or one where they are equal."""
    low, high = min(found := list(counts)), max(found)
    return thousands(low) if low == high else f"{thousands(low)} to {thousands(high)}"


def _used(run: FinishedRun) -> dict[str, Any]:
    """What the plan divides: the cases of any part, their groups, sites and positives; empty without a plan."""
    if run.plan is None:
        return {}
    names = {name for fold in run.plan.folds for ids in fold.parts.values() for name in ids}
    cases = [case for case in run.plan.cases if case.id in names]
    return {
        "cases": len(cases),
        "groups": len({case.group for case in cases}),
        "sites": len({case.site for case in cases if case.site}),
        "without_site": sum(not case.site for case in cases),
    }


def _balanced_by(run: FinishedRun) -> list[str]:
    """The columns that the plan names and in which its cases differ: a single site balances nothing."""
    named = run.plan.settings.get("stratify") or () if run.plan else ()
    return [name for name in named if run.plan and len(set(column_cells(run.plan.cases, name))) > 1]


def _devices(run: FinishedRun) -> list[str]:
    """What the sessions of the run computed on."""
    found = (one.get("device") for one in run.record.get("sessions") or ())
    return list(dict.fromkeys(str(device) for device in found if device))


def _sizes(run: FinishedRun) -> dict[str, dict[str, str]]:
    """Per part of a fold: the span of its cases over the folds and, of a classification, of its positive ones."""
    if run.plan is None:
        return {}
    label = {case.id: case.label for case in run.plan.cases}
    found = {}
    for part in ("train", "validation", "test"):
        listed = [fold.parts[part] for fold in run.plan.folds]
        found[part] = {"cases": span(map(len, listed))}
        if run.classification and any(label.values()):
            found[part]["positive"] = span(sum(label[name] == "1" for name in ids) for ids in listed)
    return found


def _volume(run: FinishedRun) -> dict[str, str]:
    """What the plans of the folds say, by the name of the row; several values where folds differ."""
    rows = volume_plan(run)["rows"] if run.volume_plans else []
    return {
        row["What"]: " or ".join(dict.fromkeys(cell for title, cell in row.items() if title != "What" and cell))
        for row in rows
    }


def _augmented(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The augmentations that are on."""
    return {
        name.replace("_", " "): "on" if setting is True else setting
        for name, setting in settings.items()
        if setting and setting not in ([1.0], (1.0,), "drawn")
    }


def _calibration_metrics(run: FinishedRun) -> list[str]:
    return [name for name in _CALIBRATION if name in run.pooled["metrics"]] if run.classification else []


def _wrong(run: FinishedRun) -> dict[str, Any]:
    """Decisions against labels, over all rows."""
    positive = [row["prediction"] for row in run.rows if row["label"] == 1]
    negative = [row["prediction"] for row in run.rows if row["label"] == 0]
    return {
        "positive": len(positive),
        "negative": len(negative),
        "missed": sum(decision == 0 for decision in positive),
        "false": sum(decision == 1 for decision in negative),
    }


def _tests(run: FinishedRun) -> Sequence[str]:
    compared, _ = run.comparisons
    return list(dict.fromkeys(METHODS[outcome.method] for found in compared.values() for outcome in found.outcomes))


def _centers(run: FinishedRun) -> dict[str, Any]:
    """The lowest and the highest of the primary metric over the known sites; empty below two."""
    parts = run.metrics.get("by_site") or {}
    scores = [value(part, run.primary.name) for name, part in parts.items() if name != "unknown"]
    known = [score for score in scores if score == score]
    if len(known) < 2:
        return {}
    digits = run.primary.digits
    return {"number": len(known), "low": number(min(known), digits), "high": number(max(known), digits)}
