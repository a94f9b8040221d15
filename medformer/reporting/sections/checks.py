"""Whether the numbers can be believed: leakage audit, baselines, permuted labels, and site probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medformer.crossval.checks.canary import CanaryVerdict
from medformer.crossval.compare.result import METHODS, Comparison
from medformer.crossval.compare.text import reading
from medformer.reporting.figures.intervals import comparison_forest, forest
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import value, written
from medformer.reporting.sections.decisions import undecided
from medformer.reporting.wording import MISSING, between, number, p_value, signed

ALPHA = 0.05
SHOWN = 40


def audit(run: FinishedRun) -> dict[str, Any]:
    """Separate the findings of a run's audit that the user accepted from the others."""
    accepted_names = [str(name) for name in run.record.get("accepted_leaks", ())]
    return audited(run.audit, accepted_names, len(run.rows))


def audited(content: Mapping[str, Any] | None, accepted_names: Sequence[str], cases: int) -> dict[str, Any]:
    """Separate the findings that the user accepted from the others.

    Args:
        content: Of audit.json; None where nothing was audited.
        accepted_names: The names by which the user accepted findings.
        cases: Number of cases, where the audit does not say it.
    """
    found = content or {}
    findings = found.get("findings", [])
    accepted = [finding for finding in findings if finding.get("accepted")]
    others = [finding for finding in findings if not finding.get("accepted")]
    return {
        "level": "warning" if accepted_names or content is None or findings or found.get("unknown") else "ok",
        "audited": content is not None,
        "accepted_names": accepted_names,
        "number_accepted": len(accepted),
        "number_of_others": len(others),
        "number_of_findings": len(findings),
        "accepted": [_sides(finding) for finding in accepted[:SHOWN]],
        "others": [_sides(finding) for finding in others[:SHOWN]],
        "unknown": found.get("unknown", []),
        "not_found": found.get("accepted_but_not_found", []),
        "looked_for": found.get("looked_for", {}),
        "cases": found.get("cases", cases),
        "problems": found.get("problems", [])[:SHOWN],
        "number_of_problems": len(found.get("problems", [])),
        "shown": SHOWN,
    }


def _sides(finding: Mapping[str, Any]) -> dict[str, str]:
    files = [f": {file}" for file in finding.get("files", [])] + ["", ""]
    return {
        "kind": str(finding.get("kind", "")),
        "one_side": f"{finding.get('a', '')} ({finding.get('part_a', '')}){files[0]}",
        "other_side": f"{finding.get('b', '')} ({finding.get('part_b', '')}){files[1]}",
        "detail": str(finding.get("detail", "")),
    }


def baselines(run: FinishedRun) -> dict[str, Any]:
    """Compare the model with each baseline, and with the best of them."""
    compared, problems = run.comparisons
    name = run.primary.name
    pooled = {baseline: inner.metrics["pooled"] for baseline, inner in run.baselines.items()}
    rows = [{"method": "This model", **written(run, run.pooled, name)}]
    rows += [
        {"method": baseline, **written(run, part, name), **(_lead(compared[baseline]) if baseline in compared else {})}
        for baseline, part in pooled.items()
    ]
    rows += [{"method": f"{baseline} (failed)"} for baseline in run.failed_baselines]
    readings: dict[str, list[str]] = {}
    for baseline, comparison in compared.items():
        readings.setdefault(reading(comparison), []).append(baseline)
    cautions = [caution for comparison in compared.values() for caution in comparison.cautions]
    known = [baseline for baseline in compared if math.isfinite(value(pooled[baseline], name))]
    best = max(known, key=lambda baseline: value(pooled[baseline], name)) if known else ""
    outcome = _outcome(compared[best]) if best else "unknown"
    return {
        "level": "ok" if outcome == "better" else "warning",
        "outcome": outcome,
        "best": best,
        "lead": compared.get(best),
        "number_compared": len(known),
        "own": written(run, run.pooled, name)["value"],
        "of_best": written(run, pooled[best], name)["value"] if best else "",
        "lead_interval": lead_interval(compared[best]) if best else "",
        "lead_interval_of": lead_interval,
        "unsure": bool(best) and _not_excluded(compared[best]),
        "rows": rows,
        "compared": compared,
        "readings": readings,
        "methods": list(dict.fromkeys(METHODS[comparison.test] for comparison in compared.values())),
        "fold_method": METHODS["folds"],
        "cautions": list(dict.fromkeys(cautions)),
        "problems": problems,
        "failed": run.failed_baselines,
        "undecided": {name: count for name, inner in run.baselines.items() if (count := undecided(inner.decisions))},
        "svg": comparison_forest("baselines", list(compared.values())) if compared else "",
    }


def lead_interval(lead: Comparison) -> str:
    """Write the interval of a lead, or why there is none."""
    return between(lead.low, lead.high, lead.digits, signed=True, reason=lead.no_interval)


def _outcome(lead: Comparison) -> str:
    if lead.low > 0 and lead.p_holm < ALPHA:
        return "better"
    return "worse" if lead.high < 0 else "no clear lead"


def _not_excluded(lead: Comparison) -> bool:
    """Whether the test over folds does not exclude that there is no difference."""
    return lead.fold_test is not None and lead.fold_test.p_holm >= ALPHA


def _lead(lead: Comparison) -> dict[str, str]:
    return {
        "lead": signed(lead.difference, lead.digits),
        "lead_interval": lead_interval(lead),
        "p": p_value(lead.p),
        "p_holm": p_value(lead.p_holm),
        "fold_p_holm": p_value(lead.fold_test.p_holm) if lead.fold_test else MISSING,
        "folds_won": f"{lead.folds_won} of {lead.folds}",
    }


_LEVELS = {"at chance": "ok", "leak suspected": "warning", "cannot tell": "info"}


def canary(run: FinishedRun) -> dict[str, Any]:
    """Judge the result on permuted labels: with nothing to learn, what is left must come from a leak."""
    found, problem = run.canary_verdict
    if found is None:
        return {"level": "warning", "found": None, "problem": problem}
    too_small = found.answer == "at chance" and found.real is not None and found.real <= found.high
    return {
        "level": "info" if too_small else _LEVELS[found.answer],
        "found": found,
        "too_small": too_small,
        "range": between(found.low, found.high) if math.isfinite(found.high) else MISSING,
        "svg": _forest(found),
    }


def _forest(found: CanaryVerdict) -> str:
    rows = [
        ("Real labels", math.nan if found.real is None else found.real, math.nan, math.nan),
        ("Permuted labels", found.value, math.nan, math.nan),
        ("Expected without a leak", found.expected, found.low, found.high),
    ]
    drawn: Sequence[tuple[str, float, float, float]] = [row for row in rows if math.isfinite(row[1])]
    reference = found.expected if math.isfinite(found.expected) else found.value
    return forest("canary", drawn, xlabel=found.measure, reference=reference)


def site_probe(run: FinishedRun) -> dict[str, Any]:
    """Say how well the site can be predicted from what the model uses."""
    probe = run.site_probe or {}
    score, chance, low = (probe.get(key) for key in ("balanced_accuracy", "chance", "low"))
    above = None if low is None or chance is None else low > chance
    predictable = probe.get("predictable", above)
    if score is None or chance is None:
        outcome, level = "not probed", "info"
    elif predictable is None:
        outcome, level = "too few groups", "info"
    else:
        outcome, level = ("predictable", "warning") if predictable else ("at chance", "ok")
    return {
        "level": level,
        "outcome": outcome,
        "probe": probe,
        "known": number(score) != MISSING,
        "sites": [{"site": str(site), **part} for site, part in (probe.get("by_site") or {}).items()],
    }
