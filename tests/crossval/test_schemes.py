from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.schemes import make_plan, predefined_plan, quantile_bins
from medformer.errors import ConfigError, DataError


def cohort(seed: int) -> list[PlanCase]:
    """Random cohorts with the shapes that hurt: single frames, one group that dwarfs the rest, rare strata."""
    draw = random.Random(seed)
    cases = []
    for group in range(draw.randint(1, 25)):
        frames = 40 if draw.random() < 0.1 else draw.choice([1, 1, 2, 3, 5])
        for frame in range(frames):
            stratum = f"{draw.choice('ab')}|{draw.randint(0, draw.randint(0, 9))}"
            cases.append(PlanCase(f"g{group}_{frame}", f"g{group}", stratum))
    draw.shuffle(cases)
    return cases


def test_random_cohorts_are_split_into_whole_groups_or_refused() -> None:
    outcomes = Counter()
    for seed in range(150):
        cases = cohort(seed)
        folds = 2 + seed % 6
        groups = {case.group for case in cases}
        try:
            plan = make_plan(cases, folds=folds, validation=(0.1, 0.15, 0.3, 0.5, 0.8)[seed % 5], seed=seed)
        except DataError as error:
            outcomes["refused"] += 1
            assert len(groups) < max(folds, 4 if folds == 2 else 3)
            assert f"{len(groups)} group(s)" in str(error)
            continue
        outcomes["planned"] += 1
        check_partition(plan)
    assert outcomes["planned"] > 80
    assert outcomes["refused"] > 5


def check_partition(plan: Plan) -> None:
    group = {case.id: case.group for case in plan.cases}
    assert sorted(name for fold in plan.folds for name in fold.test) == sorted(group)
    for fold in plan.folds:
        assert sorted([*fold.train, *fold.validation, *fold.test]) == sorted(group)
        train, validation, test = ({group[name] for name in ids} for ids in fold.parts.values())
        assert train and validation and test
        assert not train & validation
        assert not train & test
        assert not validation & test


def test_same_seed_same_plan_and_another_seed_another(cases: list[PlanCase]) -> None:
    plan = make_plan(cases, folds=3, validation=0.25, seed=7)
    assert plan == make_plan(cases, folds=3, validation=0.25, seed=7)
    others = [make_plan(cases, folds=3, validation=0.25, seed=seed).folds for seed in range(20, 25)]
    assert any(folds != plan.folds for folds in others)


def test_strata_are_balanced_over_folds() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", "small" if i % 4 else "large") for i in range(120)]
    plan = make_plan(cases, folds=5, validation=0.2, seed=1)
    large = {case.id for case in cases if case.stratum == "large"}
    for fold in plan.folds:
        assert [len(large & set(ids)) / len(ids) for ids in fold.parts.values()] == pytest.approx([0.25] * 3, abs=0.06)


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 1 / 3, 0.5, 0.75])
def test_validation_part_has_about_the_share_asked_for(share: float) -> None:
    cases = [PlanCase(f"c{i}", f"g{i // 2}") for i in range(200)]
    plan = make_plan(cases, folds=5, validation=share, seed=3)
    for fold in plan.folds:
        assert len(fold.validation) / 160 == pytest.approx(share, abs=0.035)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_impossible_validation_shares_are_refused(cases: list[PlanCase], share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        make_plan(cases, folds=3, validation=share, seed=0)


def test_one_fold_is_refused(cases: list[PlanCase]) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        make_plan(cases, folds=1, validation=0.2, seed=0)


def test_duplicate_ids_are_named() -> None:
    with pytest.raises(DataError, match="same"):
        make_plan([PlanCase("same", f"g{i}") for i in range(6)], folds=2, validation=0.2, seed=0)


def test_predefined_split_keeps_its_test_part_and_draws_validation_by_group(cases: list[PlanCase]) -> None:
    test = [case.id for case in cases if case.group in ("g00", "g05")]
    train = [case.id for case in cases if case.id not in test]
    plan = predefined_plan(cases, train=train, validation=0.25, test=test, seed=0)
    (fold,) = plan.folds
    assert list(fold.test) == test
    assert sorted([*fold.train, *fold.validation]) == sorted(train)
    group = {case.id: case.group for case in cases}
    assert not {group[name] for name in fold.train} & {group[name] for name in fold.validation}


def test_predefined_split_may_give_validation_and_no_test(cases: list[PlanCase]) -> None:
    ids = [case.id for case in cases]
    plan = predefined_plan(cases, train=ids[:5], validation=ids[5:8], seed=0)
    assert plan.folds[0].parts == {"train": tuple(ids[:5]), "validation": tuple(ids[5:8]), "test": ()}
    # Unused cases stay known, so that a later change of them is noticed.
    assert plan.cases == tuple(cases)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (["nobody"], 0.2, "nobody"),
        ([], 0.2, "no training"),
        (["g00_0", "g01_0"], [], "no validation"),
        (["g00_0"], 0.5, "at least 2"),
        (["g00_0", "g01_0"], ["g00_0"], "more than once"),
    ],
)
def test_predefined_split_errors(
    cases: list[PlanCase], train: list[str], validation: float | list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        predefined_plan(cases, train=train, validation=validation, seed=0)


def test_quantile_bins_are_even_and_ties_stay_together() -> None:
    values = list(np.random.default_rng(0).random(99))
    assert set(Counter(quantile_bins(values, 3)).values()) == {33}
    order = np.argsort(values)
    assert list(np.diff(np.array(quantile_bins(values, 3))[order]) >= 0) == [True] * 98
    assert quantile_bins([5.0] * 4 + [float("nan")], 3) == [0, 0, 0, 0, -1]
    assert quantile_bins([1.0, 2.0], 1) == [0, 0]
    assert quantile_bins([float("nan")], 3) == [-1]
