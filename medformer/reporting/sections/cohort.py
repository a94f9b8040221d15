"""Who the cases are, and how the cohort was prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medformer.evaluation.table import group_names
from medformer.missing import known
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import number, share, thousands

Rows = Sequence[Mapping[str, Any]]
MOST_SITES = 40
MOST_SEXES = 4
EXCLUSIONS_SHOWN = 12


def data(run: FinishedRun) -> dict[str, Any]:
    """Count cases, groups and what else is known about them, per site and in all."""
    sites = run.sites if len(run.sites) > 1 else []
    rows = {site: [row for row in run.first_rows if known(row.get("site")) == site] for site in sites[:MOST_SITES]}
    return {
        "sites": [_describe(run, site, part) for site, part in rows.items()],
        "number_of_sites": len(sites),
        "total": _describe(run, "All", run.first_rows),
        "sexes": {f"Sex: {sex}": f"sex {sex}" for sex in _sexes(run)},
    }


def _describe(run: FinishedRun, site: str, rows: Rows) -> dict[str, str]:
    """The cells of one site; columns of which nothing is known are left out."""
    whole = run.first_rows
    cells = {
        "site": site,
        "cases": thousands(len(rows)),
        "groups": thousands(len(set(group_names(rows)))),
    }
    if run.classification:
        cells["positive"] = share(sum(row["label"] == 1 for row in rows), len(rows))
    elif all("truth_px" in row for row in whole):
        cells["with_target"] = share(sum(row["truth_px"] != 0 for row in rows), len(rows))
        if all(isinstance(row.get("truth_fraction"), (int, float)) for row in whole):
            sizes = [float(row["truth_fraction"]) for row in rows if row["truth_fraction"] > 0]
            cells["median_size"] = number(100 * float(np.median(sizes)), 1) if sizes else ""
    if any(_is_number(row.get("age")) for row in whole):
        ages = [float(row["age"]) for row in rows if _is_number(row.get("age"))]
        cells["age"] = f"{np.median(ages):.0f} ({min(ages):.0f} to {max(ages):.0f})" if ages else ""
    for sex in _sexes(run):
        cells[f"sex {sex}"] = share(sum(known(row.get("sex")) == sex for row in rows), len(rows))
    return cells


def _sexes(run: FinishedRun) -> list[str]:
    found = {known(row.get("sex")) for row in run.first_rows} - {""}
    return sorted(found) if len(found) <= MOST_SEXES else []


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def cohort(run: FinishedRun) -> dict[str, Any]:
    """Count exclusions, applied rules, atlases, and test subjects from sites unknown to the training part."""
    prepared = run.cohort or {}
    excluded: Mapping[str, int] = prepared.get("excluded") or {}
    atlases: Mapping[str, Mapping[str, Any]] = prepared.get("atlases") or {}
    exclusions = prepared.get("exclusions") or ()
    return {
        "kept": prepared.get("kept"),
        "excluded": sum(excluded.values()),
        "reasons": [
            {"reason": str(reason), "count": count}
            for reason, count in sorted(excluded.items(), key=lambda item: -item[1])
        ],
        "exclusions": exclusions[:EXCLUSIONS_SHOWN],
        "listed": len(exclusions),
        "atlases": [{"atlas": name, **known} for name, known in atlases.items()],
        "policies": prepared.get("policies") or (),
        "unseen_sites": prepared.get("unseen_sites") or {},
        "harmonized": run.config.get("features", {}).get("harmonize", "none") != "none",
    }
