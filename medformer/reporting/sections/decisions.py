"""What was learned on the inner validation part of each fold: threshold, calibration, and which components are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medformer.errors import counted
from medformer.inference.threshold import FEWEST
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import label_title, number

Record = Mapping[str, Any]


def has_decisions(run: FinishedRun) -> bool:
    """Whether any fold was asked to learn something."""
    return bool(_thresholds(run.decisions) or _calibrations(run.decisions) or _components(run))


def decisions(run: FinishedRun) -> dict[str, Any]:
    """Say in how many folds each number was learned, from how many cases, and what stands where it was not."""
    asked = {
        "threshold": _thresholds(run.decisions),
        "calibration": _calibrations(run.decisions),
        "components": _components(run),
    }
    items = {what: _verdict(list(found.values())) for what, found in asked.items() if found}
    return {
        "level": "info" if any(item["reasons"] for item in items.values()) else "ok",
        "items": items,
        "rows": [
            {
                "fold": str(fold),
                "threshold": number(record["threshold"], 2),
                "from": str(record.get("from", "")),
                "calibration": _calibration_cell(record),
            }
            for fold, record in run.decisions.items()
        ],
        "fewest": FEWEST,
    }


def undecided(decided: Mapping[int, Record]) -> int:
    """Number of folds that were asked to learn a threshold, and could not."""
    return sum(bool(found.get("reason")) for found in _thresholds(decided).values())


def _thresholds(decided: Mapping[int, Record]) -> dict[int, Record]:
    return {
        fold: {**record, "reason": "" if record.get("learned", True) else record["from"].removeprefix(_BECAUSE)}
        for fold, record in decided.items()
        if record.get("from") != "config"
    }


_BECAUSE = "default, because there are "


def _calibrations(decided: Mapping[int, Record]) -> dict[int, Record]:
    return {fold: record["calibration"] for fold, record in decided.items() if "calibration" in record}


def _components(run: FinishedRun) -> dict[int, Record]:
    """Per fold, the validation volumes with each label; the reason names the labels of too few."""
    found: dict[int, Record] = {}
    names = dict(next(iter(run.volume_plans.values())).labels) if run.volume_plans else {}
    for fold, components in run.components.items():
        short = [
            f"{count} with {label_title(names.get(value, str(value)))}"
            for value, count in components.cases.items()
            if count < FEWEST
        ]
        reason = f"too few inner validation volumes ({', '.join(short)}; at least {FEWEST} are needed)" if short else ""
        if components.cases:
            found[fold] = {"cases": {"": min(components.cases.values())}, "reason": reason}
    return found


def _verdict(found: Sequence[Record]) -> dict[str, Any]:
    learned = [record for record in found if not record.get("reason")]
    reasons = list(dict.fromkeys(str(record["reason"]) for record in found if record.get("reason")))
    return {
        "folds": len(found),
        "learned": len(learned),
        "cases": _span([record.get("cases", {}) for record in learned]),
        "reasons": reasons[:1],
        "more_reasons": len(reasons) - 1,
    }


def _span(counts: Iterable[Mapping[str, int]]) -> str:
    """Write the fewest and the most cases of each kind: `5 to 7 positive and 6 negative`; empty where unknown."""
    kinds: dict[str, list[int]] = {}
    for each in counts:
        for kind, count in each.items():
            kinds.setdefault(kind, []).append(count)
    spans = [
        f"{low if (low := min(found)) == (high := max(found)) else f'{low} to {high}'} {kind}".rstrip()
        for kind, found in kinds.items()
    ]
    return " and ".join(spans)


def _calibration_cell(record: Record) -> str:
    if "calibration" not in record:
        return ""
    if record["calibration"].get("reason"):
        return "not used"
    return f"learned from {counted(sum(record['calibration']['cases'].values()), 'case')}"
