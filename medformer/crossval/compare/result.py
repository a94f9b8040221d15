"""What a comparison of two runs found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from medformer.crossval.compare.pairs import Lost
from medformer.evaluation.metrics import Kind

Method = Literal["bootstrap", "folds", "delong"]

METHODS: dict[Method, str] = {
    "bootstrap": "paired bootstrap over groups",
    "folds": "corrected resampled t-test over folds (Nadeau and Bengio)",
    "delong": "DeLong's test over cases",
}


@dataclass(frozen=True)
class Outcome:
    """One test of a difference. What cannot be computed is NaN.

    Attributes:
        method: Which test.
        value_a: The metric of A, as this test sees it.
        value_b: That of B.
        difference: B minus A.
        low: Lower end of its interval.
        high: Upper end.
        p: Two-sided.
        p_holm: Adjusted for all comparisons that were made together (Holm); p when there is only one.
        units: What was counted as independent: groups, folds or cases.
        no_interval: Why there is no interval; empty where there is one.
    """

    method: Method
    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    units: int
    no_interval: str = ""


@dataclass(frozen=True)
class Statistics:
    """What is computed of the predictions that both runs have.

    Attributes:
        cases: Number of paired cases that have the metric in both runs.
        groups: Number of patients or sequences they come from.
        left_out: Paired predictions without the metric in one or both of the runs.
        one_sided: Those of them that have it in the other run.
        identical: The two runs are the same in every case.
        fold_differences: B minus A per fold; NaN where a fold has no value.
        bootstrap: Paired bootstrap over groups.
        fold_test: Corrected resampled t-test; None without two folds in common that have a value.
        delong: DeLong's test; None for anything but AUC. With repeats, of the mean score per case.
    """

    cases: int
    groups: int
    left_out: int
    one_sided: int
    identical: bool
    fold_differences: tuple[float, ...]
    bootstrap: Outcome
    fold_test: Outcome | None
    delong: Outcome | None


@dataclass(frozen=True)
class Comparison(Statistics):
    """How run B differs from run A on the cases both predicted.

    Attributes:
        run_a: Folder of the first run.
        run_b: Folder of the second run.
        name_a: What to call it.
        name_b: What to call it.
        kind: What the runs are about.
        metric: What they are compared by, as in the tables.
        title: The metric in a sentence.
        lower_is_better: Whether the smaller number is the better one.
        digits: Decimals that are worth printing.
        repeats: How often the plan was drawn.
        value_a: The metric of A.
        value_b: The metric of B.
        difference: B minus A.
        low: Lower end of its interval, from `test`.
        high: Upper end.
        p: Two-sided, from `test`.
        p_holm: Adjusted for all comparisons that were made together.
        level: Coverage of every interval.
        together: How many comparisons were made together.
        test: The test that low, high and p are from: DeLong's for AUCs of independent cases, else the bootstrap.
        folds: Number of folds that both runs have a value for.
        folds_won: Folds in which B is better.
        folds_lost: Folds in which B is worse.
        folds_tied: Folds in which neither is.
        lost: What differing plans leave out.
        cautions: What must be known before the numbers are believed, as sentences.
        configs: How the configs of two runs differ, in a sentence; empty where one is not known.
    """

    run_a: str
    run_b: str
    name_a: str
    name_b: str
    kind: Kind
    metric: str
    title: str
    lower_is_better: bool
    digits: int
    repeats: int
    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    level: float
    together: int
    test: Method
    folds: int
    folds_won: int
    folds_lost: int
    folds_tied: int
    lost: Lost
    cautions: tuple[str, ...]
    configs: str = ""

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Every test that was made, the one that `low`, `high` and `p` are from first."""
        made = [outcome for outcome in (self.bootstrap, self.fold_test, self.delong) if outcome is not None]
        return tuple(sorted(made, key=lambda outcome: outcome.method != self.test))

    @property
    def no_interval(self) -> str:
        """Why there is no interval; empty where there is one."""
        return self.outcomes[0].no_interval

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)
