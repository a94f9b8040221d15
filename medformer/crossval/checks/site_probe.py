"""How well the site can be predicted from the input of a model: what it could learn instead of the disease."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.vectors import Vector, stack_features
from medformer.errors import counted
from medformer.evaluation.number_format import PLAIN
from medformer.evaluation.statistics.bootstrap import ALL_EQUAL, grouped_statistic_interval
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.inference.single_thread import single_thread
from medformer.seeds import derive_seed

CLASSIFIER = (
    "logistic regression (L2, C = 1, classes weighed equally) on standardized features, reduced to at most 100 "
    "principal components"
)

_COMPONENTS = 100
_FOLDS = 5


def site_probe(
    features: Mapping[str, Vector],
    sites: Mapping[str, str],
    plan: Plan,
    *,
    described: str = "",
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, Any]:
    """Predict the site of each case from its features, and compare the result with chance.

    A linear classifier is fitted on the training part of each fold (of the first repeat). It predicts the test cases
    whose site was in training. When the plan keeps sites apart, as leave-one-site-out does, there are no such cases;
    folds that keep groups together and mix sites are then drawn for the probe alone.

    Args:
        features: What the model is given, a vector (d,) per id.
        sites: Site per id; cases without one are left out.
        plan: The run's plan.
        described: What the features are, for the report, such as `"thumbnails of the images"`.
        bootstrap: Level and draws of the interval; its seed also draws the folds of the probe.

    Returns:
        Plain data. `applicable` says whether there is anything to predict, `text` says all in words. If so: `n` cases,
        `groups`, `balanced_accuracy` (the mean over sites of the share of their cases that are recognized) with its
        interval over groups (`Interval.to_json`), `predictable` (above chance; None with too few groups), `sites`
        (their number), `chance` (1 over that), `by_site` (each with `n` and `recall`), `left_out` (sites of a single
        group, or that no fold both trains on and tests), `features` (`described`), `split` (which folds) and
        `classifier`.

    Raises:
        DataError: A case has no features, or none that can be used.
    """
    cases = [case for case in plan.cases if sites.get(case.id)]
    groups_of: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        groups_of[sites[case.id]].add(case.group)
    # A site of one group is never in training and test at once.
    eligible = {site for site, groups in groups_of.items() if len(groups) > 1}
    left_out = sorted(set(groups_of) - eligible)
    if len(eligible) < 2:
        return _nothing(len(groups_of), left_out)
    usable = [case for case in cases if sites[case.id] in eligible]
    split = "the folds of the plan"
    predicted = _predict(features, sites, _planned(plan, usable))
    if len({sites[name] for name in predicted}) < len(eligible):
        split = f"{_FOLDS} folds drawn for the probe, groups kept whole, because the plan keeps sites apart"
        predicted = _predict(features, sites, _drawn(usable, sites, bootstrap.seed))
    scored = [case for case in usable if case.id in predicted]
    names = sorted({sites[case.id] for case in scored})
    if len(names) < 2:
        return _nothing(len(groups_of), left_out)
    truth = np.array([names.index(sites[case.id]) for case in scored])
    right = np.array([predicted[case.id] == sites[case.id] for case in scored], np.float64)

    def recalls(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        counts = np.bincount(truth[rows], minlength=len(names))
        hits = np.bincount(truth[rows], weights=right[rows], minlength=len(names))
        return np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)

    def balanced(rows: NDArray[np.intp]) -> float:
        return float(np.nanmean(recalls(rows)))

    everything = np.arange(len(scored))
    groups = [case.group for case in scored]
    interval = grouped_statistic_interval(balanced, groups, bootstrap, classes=truth.tolist())
    score, chance = balanced(everything), 1 / len(names)
    # A site that is recognized however the cases are drawn has no interval, and is recognized all the same.
    lowest = score if interval.reason == ALL_EQUAL else interval.low
    result: dict[str, Any] = {
        "applicable": True,
        "n": len(scored),
        "groups": len(set(groups)),
        "balanced_accuracy": score,
        **interval.to_json(),
        "sites": len(names),
        "predictable": None if np.isnan(lowest) else bool(lowest > chance),
        "chance": chance,
        "by_site": {
            name: {"n": int((truth == position).sum()), "recall": float(recall)}
            for position, (name, recall) in enumerate(zip(names, recalls(everything), strict=True))
        },
        "left_out": sorted(set(groups_of) - set(names)),
        "features": described,
        "split": split,
        "classifier": CLASSIFIER,
    }
    return {**result, "text": _describe(result, plan)}


def _planned(plan: Plan, cases: Sequence[PlanCase]) -> Iterator[tuple[list[str], list[str]]]:
    known = {case.id for case in cases}
    for fold in plan.folds:
        if fold.repeat == 0:
            yield [name for name in fold.train if name in known], [name for name in fold.test if name in known]


def _drawn(cases: Sequence[PlanCase], sites: Mapping[str, str], seed: int) -> Iterator[tuple[list[str], list[str]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    strata, groups = [sites[case.id] for case in cases], [case.group for case in cases]
    folds = min(_FOLDS, len(set(groups)), max(Counter(strata).values()))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=derive_seed(seed, "site probe") % 2**32)
    with warnings.catch_warnings():
        # A site with fewer groups than folds cannot be in each; that is no fault here.
        warnings.simplefilter("ignore", UserWarning)
        for train, test in splitter.split(np.zeros(len(cases)), strata, groups):
            yield [cases[row].id for row in train], [cases[row].id for row in test]


def _predict(
    features: Mapping[str, Vector], sites: Mapping[str, str], folds: Iterator[tuple[list[str], list[str]]]
) -> dict[str, str]:
    """The predicted site of each test case whose site was in training with at least one other."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted: dict[str, str] = {}
    for train, test in folds:
        known = {sites[name] for name in train}
        asked = [name for name in test if sites[name] in known]
        if len(known) < 2 or not asked:
            continue
        matrix = stack_features(features, train)
        components = min(_COMPONENTS, *matrix.shape)
        probe = make_pipeline(
            StandardScaler(),
            PCA(components, svd_solver="full"),
            LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
        )
        with single_thread():
            probe.fit(matrix, [sites[name] for name in train])
            predicted |= zip(asked, map(str, probe.predict(stack_features(features, asked))), strict=True)
    return predicted


def _nothing(sites: int, left_out: Sequence[str]) -> dict[str, Any]:
    text = f"There are no sites to tell apart: the cases come from {counted(sites, 'site')}"
    text += f", of which {len(left_out)} {'has' if len(left_out) == 1 else 'have'} a single group." if left_out else "."
    return {"applicable": False, "left_out": list(left_out), "text": text}


def _describe(result: Mapping[str, Any], plan: Plan) -> str:
    chance, low, high = (result[key] for key in ("chance", "low", "high"))
    interval = PLAIN.interval(low, high, 2, reason=result.get("no_interval", "too few groups"))
    words = (
        f"A linear classifier recognizes the site of {result['n']} cases with balanced accuracy "
        f"{PLAIN.number(result['balanced_accuracy'], 2)} "
        f"(interval {interval}); guessing among "
        f"{result['sites']} sites gives {PLAIN.number(chance, 2)}."
    )
    if result["predictable"] is None:
        return f"{words} That does not suffice for a verdict."
    if not result["predictable"]:
        return f"{words} With this many cases, that is no better than guessing."
    left_out = plan.settings.get("left_out")
    advice = (
        f"Look at the results per {left_out}: each was tested by a model that had not seen it."
        if left_out
        else "Look at the results per site, and leave sites out (crossval.scheme=leave-one-site-out)."
    )
    return (
        f"{words} The input of the model shows the site, so a model may use it where sites differ in what is to be "
        f"predicted. {advice}"
    )
