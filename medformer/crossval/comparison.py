"""Comparing two runs of the same plan, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medformer.crossval.collect import read_oof
from medformer.crossval.plan import read_plan
from medformer.crossval.run_directory import RunDirectory
from medformer.errors import ConfigError
from medformer.evaluation.bootstrap import grouped_interval

METRIC = "dice"


@dataclass(frozen=True)
class Comparison:
    """How run B differs from run A on the cases both predicted.

    Attributes:
        run_a: Folder of the first run.
        run_b: Folder of the second run.
        cases: Number of paired cases.
        groups: Number of patients or sequences they come from.
        mean_a: Mean Dice of A.
        mean_b: Mean Dice of B.
        difference: Mean of B minus A over cases.
        low: Lower end of its interval.
        high: Upper end; 95 % bootstrap over groups.
        folds_won: Folds in which B's mean is higher.
        folds: Number of folds.
    """

    run_a: str
    run_b: str
    cases: int
    groups: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    folds_won: int
    folds: int

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)


def compare_runs(a: RunDirectory, b: RunDirectory) -> Comparison:
    """Pair the out-of-fold tables of two runs by case and repeat.

    Raises:
        ConfigError: The runs have different fold plans, so their differences mix model and split.
        DataError: A table or plan is missing or damaged.
    """
    plans = read_plan(a.splits_json), read_plan(b.splits_json)
    if plans[0].digest() != plans[1].digest():
        raise ConfigError(
            f"{a.path} and {b.path} have different fold plans ({plans[0].digest()[:12]}, {plans[1].digest()[:12]}); "
            "expected the same splits. Run both with the same data, seed and folds."
        )
    left, right = ({(row.get("repeat", 0), row["id"]): row for row in read_oof(run.oof_csv)} for run in (a, b))
    if left.keys() != right.keys():
        raise ConfigError(f"{a.path} and {b.path} predicted different cases. Finish both runs with --resume.")
    rows = list(left.items())
    scores_a = np.array([float(row[METRIC]) for _, row in rows])
    scores_b = np.array([float(right[key][METRIC]) for key, _ in rows])
    groups = [_group(row) for _, row in rows]
    folds = np.array([int(row["fold"]) for _, row in rows])
    known = ~np.isnan(scores_a) & ~np.isnan(scores_b)
    interval = grouped_interval(scores_b - scores_a, groups)
    won = sum(bool(np.nanmean(scores_b[folds == k]) > np.nanmean(scores_a[folds == k])) for k in np.unique(folds))
    return Comparison(
        run_a=str(a.path),
        run_b=str(b.path),
        cases=int(known.sum()),
        groups=interval.groups,
        mean_a=float(scores_a[known].mean()),
        mean_b=float(scores_b[known].mean()),
        difference=float((scores_b - scores_a)[known].mean()),
        low=interval.low,
        high=interval.high,
        folds_won=won,
        folds=len(np.unique(folds)),
    )


def format_comparison(comparison: Comparison) -> str:
    """Say a comparison in plain words."""
    c = comparison
    verdict = "includes 0" if c.low <= 0 <= c.high else "does not include 0"
    return (
        f"{c.run_b} against {c.run_a}: mean Dice {c.mean_b:.3f} against {c.mean_a:.3f} on the same {c.cases} cases of "
        f"{c.groups} groups.\nDifference {c.difference:+.3f}, 95 % interval {c.low:+.3f} to {c.high:+.3f} (bootstrap "
        f"over groups): it {verdict}. The second is better on {c.folds_won} of {c.folds} folds."
    )


def _group(row: Mapping[str, Any]) -> str:
    return str(row.get("group") or row["id"])
