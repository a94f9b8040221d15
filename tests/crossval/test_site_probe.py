from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_connectomes import synthetic_connectomes

from medformer.crossval.checks.site_probe import site_probe
from medformer.crossval.plan import Fold, Plan, PlanCase
from medformer.crossval.plan.schemes import make_plan
from medformer.errors import DataError

Features = dict[str, NDArray[np.float64]]


def cohort(counts: dict[str, int], shift: float, seed: int = 0) -> tuple[list[PlanCase], Features, dict[str, str]]:
    """Two cases per group; a site shifts the first feature."""
    generator = np.random.default_rng(seed)
    cases, features, sites = [], {}, {}
    for number, (site, count) in enumerate(counts.items()):
        for index in range(count):
            name = f"{site}{index:02d}"
            cases.append(PlanCase(name, f"{site}, group {index // 2}", site, "", site))
            features[name] = generator.normal(size=6) + shift * number * np.eye(6)[0]
            sites[name] = site
    return cases, features, sites


def leave_one_site_out(cases: list[PlanCase]) -> Plan:
    folds = []
    for index, site in enumerate(sorted({case.site for case in cases})):
        rest = [case for case in cases if case.site != site]
        held = {rest[0].group}
        folds.append(
            Fold(
                index,
                tuple(case.id for case in rest if case.group not in held),
                tuple(case.id for case in rest if case.group in held),
                tuple(case.id for case in cases if case.site == site),
            )
        )
    return Plan("leave-one-site-out", 0, tuple(cases), tuple(folds))


def test_a_site_that_marks_its_cases_is_recognized() -> None:
    cases, features, sites = cohort({"a": 24, "b": 24, "c": 12}, shift=6.0)
    found = site_probe(features, sites, make_plan(cases, folds=3, validation=0.2, seed=0), described="numbers")
    assert found["applicable"]
    assert found["balanced_accuracy"] > 0.9
    assert found["low"] > found["chance"] == 1 / 3
    assert (found["sites"], found["n"], found["groups"], found["left_out"]) == (3, 60, 30, [])
    assert found["split"] == "the folds of the plan"
    assert found["features"] == "numbers"
    assert {site: part["n"] for site, part in found["by_site"].items()} == {"a": 24, "b": 24, "c": 12}
    recalls = [part["recall"] for part in found["by_site"].values()]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert "shows the site" in found["text"]
    json.dumps(found, allow_nan=False)


def test_a_site_that_leaves_no_mark_is_not() -> None:
    cases, features, sites = cohort({"a": 40, "b": 40}, shift=0.0, seed=3)
    found = site_probe(features, sites, make_plan(cases, folds=4, validation=0.2, seed=0))
    assert found["low"] < 0.5 < found["high"]
    assert "no better than guessing" in found["text"]


def test_classes_of_unequal_size_are_weighed_equally() -> None:
    """Naming the largest site for everybody is chance."""
    cases, features, sites = cohort({"a": 80, "b": 8, "c": 8}, shift=0.0, seed=1)
    found = site_probe(features, sites, make_plan(cases, folds=4, validation=0.2, seed=0))
    assert found["chance"] == 1 / 3
    assert found["balanced_accuracy"] < 0.6


def test_test_cases_do_not_reach_the_fit() -> None:
    cases, features, sites = cohort({"a": 24, "b": 24}, shift=6.0)
    fold = make_plan(cases, folds=3, validation=0.2, seed=0).folds[0]
    plan = Plan("hold-out", 0, tuple(cases), (fold,))
    before = site_probe(features, sites, plan)
    # A test case far out would move the scale of every feature, had it been fitted.
    moved = features | {fold.validation[0]: np.full(6, 1e6), fold.test[0]: np.full(6, 1e6)}
    after = site_probe(moved, sites, plan)
    changed = abs(after["balanced_accuracy"] - before["balanced_accuracy"]) * 2
    smallest = min(part["n"] for part in before["by_site"].values())
    assert changed <= 1 / smallest + 1e-9


def test_a_plan_that_keeps_sites_apart_is_replaced_by_one_that_mixes_them() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20, "c": 20}, shift=6.0)
    found = site_probe(features, sites, leave_one_site_out(cases))
    assert found["balanced_accuracy"] > 0.9
    assert "drawn for the probe" in found["split"]
    assert found == site_probe(features, sites, leave_one_site_out(cases))


def test_repeats_are_probed_once() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20}, shift=6.0)
    once = make_plan(cases, folds=2, validation=0.2, seed=0)
    again = [Fold(2 + fold.index, fold.train, fold.validation, fold.test, repeat=1) for fold in once.folds]
    found = site_probe(features, sites, Plan(once.scheme, 0, once.cases, (*once.folds, *again)))
    assert found == site_probe(features, sites, once)


def test_sites_of_one_group_are_left_out_and_named() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20, "c": 2}, shift=6.0)
    found = site_probe(features, sites, make_plan(cases, folds=3, validation=0.2, seed=0))
    assert found["left_out"] == ["c"]
    assert found["sites"] == 2
    assert found["n"] == 40


def test_small_sites_do_not_stop_the_probe() -> None:
    cases, features, sites = cohort({"a": 4, "b": 4}, shift=6.0)
    found = site_probe(features, sites, leave_one_site_out(cases))
    assert found["applicable"]
    assert found["n"] <= 8


@pytest.mark.parametrize("counts", [{"a": 20}, {"a": 20, "b": 2}])
def test_one_site_cannot_be_probed(counts: dict[str, int]) -> None:
    cases, features, sites = cohort(counts, shift=1.0)
    found = site_probe(features, sites, make_plan(cases, folds=3, validation=0.2, seed=0))
    assert not found["applicable"]
    assert f"come from {len(counts)} site" in found["text"] and "(s)" not in found["text"]


def test_cases_without_a_site_are_left_out() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20}, shift=6.0)
    plan = make_plan(cases, folds=2, validation=0.2, seed=0)
    assert site_probe(features, sites | {"a00": "", "a01": ""}, plan)["n"] == 38


def test_a_case_without_features_is_named() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20}, shift=6.0)
    del features["a03"]
    with pytest.raises(DataError, match="no features for a03"):
        site_probe(features, sites, make_plan(cases, folds=2, validation=0.2, seed=0))


def test_scanners_are_recognized_in_connectomes_only_when_they_leave_something() -> None:
    def probe(strength: float) -> float:
        drawn = synthetic_connectomes(120, sites=2, site_effect=strength, regions=24, seed=2)
        cases = [PlanCase(row["id"], row["group"], row["site"], "", row["site"]) for row in drawn.table()]
        sites = dict(zip(drawn.ids, drawn.sites, strict=True))
        found = site_probe(drawn.features, sites, make_plan(cases, folds=3, validation=0.2, seed=0))
        return float(found["balanced_accuracy"])

    assert probe(2.0) > 0.85
    assert probe(0.0) < probe(2.0) - 0.1


def test_sites_that_are_always_recognized_are_predictable_without_an_interval() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20}, shift=60.0)
    found = site_probe(features, sites, make_plan(cases, folds=3, validation=0.2, seed=0))
    assert found["balanced_accuracy"] == 1.0 and found["predictable"]
    assert np.isnan([found["low"], found["high"]]).all() and found["no_interval"] == "all resamples equal"
    assert "(interval none (all resamples equal))" in found["text"] and "1.00 to 1.00" not in found["text"]
    assert "leave sites out (crossval.scheme=leave-one-site-out)" in found["text"]


def test_leaving_sites_out_is_not_advised_to_who_did() -> None:
    cases, features, sites = cohort({"a": 20, "b": 20}, shift=6.0)
    plan = replace(leave_one_site_out(cases), settings={"left_out": "site"})
    text = site_probe(features, sites, plan)["text"]
    assert "Look at the results per site: each was tested by a model that had not seen it." in text
    assert "leave sites out" not in text
