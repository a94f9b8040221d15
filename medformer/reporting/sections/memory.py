"""Which stored training cases the memories of the networks retrieved for some test cases."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any

from medformer.reporting.figures.pictures import CasePictures
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import number, percent

SHOWN = 6
"""Test cases, of all folds together."""
LEAST = 0.005
"""Weight of what is shown; a smaller one reads as 0%."""


def memory(run: FinishedRun) -> dict[str, Any]:
    """Take turns among the folds; pictures stand beside the names where the run is not shared."""
    by_fold = [[(fold, one) for one in found["cases"]] for fold, found in sorted(run.recalls.items())]
    shown = [pair for pair in chain.from_iterable(zip_longest(*by_fold)) if pair is not None][:SHOWN]
    pictures = None if run.shared else CasePictures(run)
    rows = {(row.get("fold"), str(row["id"])): row for row in run.rows}
    return {
        "cases": [_case(pictures, rows.get((fold, one["id"]), {"id": one["id"]}), fold, one) for fold, one in shown],
        "recalled": sum(map(len, by_fold)),
    }


def _case(pictures: CasePictures | None, row: Mapping[str, Any], fold: int, one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": one["id"],
        "fold": fold,
        "dice": number(row.get("dice")),
        "marked": one["marked"],
        "picture": _picture(pictures.overlay(row) if pictures else None),
        "regions": [_stored(pictures, stored) for stored in one["regions"] if stored["weight"] >= LEAST],
        "scenes": [_stored(pictures, stored) for stored in one["scenes"] if stored["weight"] >= LEAST],
    }


def _stored(pictures: CasePictures | None, stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "case": stored["case"],
        "weight": percent(stored["weight"]),
        "kind": stored.get("kind"),
        "picture": _picture(pictures.place(stored["case"], stored.get("place", ())) if pictures else None),
    }


def _picture(drawn: tuple[str, str] | None) -> dict[str, str]:
    """Its source, or why there is none."""
    source, missing = drawn or ("", "")
    return {"source": source, "missing": missing}
