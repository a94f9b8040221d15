from __future__ import annotations

import random
from functools import cache

import pytest

from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold, Plan, PlanCase
from medformer.crossval.plan.balance import Balance, balance_table, format_balance, plan_warnings
from medformer.crossval.plan.schemes import draw_plan, predefined_plan


def cohort(sites: int = 2, groups: int = 40, seed: int = 0) -> list[PlanCase]:
    draw = random.Random(seed)
    return [
        PlanCase(
            f"g{g}_{frame}",
            f"g{g}",
            site=f"hospital number {g % sites}",
            label=str(g % 3 == 0) if sites < 3 else "",
            covariates={
                "age": f"{draw.gauss(50, 10):.1f}" if draw.random() > 0.1 else "",
                "sex": draw.choice("FM"),
                "file": f"{g}_{frame}.png",
            },
        )
        for g in range(groups)
        for frame in range(1 + g % 2)
    ]


def config(**changes: object) -> CrossvalConfig:
    return CrossvalConfig.model_validate({"stratify": ("site", "label"), "folds": 4, "validation": 0.2, **changes})


def test_rows_add_up() -> None:
    cases = cohort()
    balance = balance_table(draw_plan(cases, config(), seed=0))
    assert len(balance.rows) == len(balance.parts) == 1 + 4 * 3
    assert {len(row) for row in balance.rows} == {len(balance.header)}
    # File names tell nothing about balance; every number or category does.
    assert balance.header[:6] == ("Fold", "Part", "Cases", "Groups", "label=False", "label=True")
    assert balance.header[6:] == ("site=hospital number 0", "site=hospital number 1", "sex=F", "sex=M", "age")
    whole, *parts = balance.parts
    assert (whole.cases, whole.groups) == (len(cases), 40)
    assert whole.counts["label"] == {"False": 39, "True": 21}
    for fold in range(4):
        of_fold = [part for part in parts if part.fold == fold]
        assert [part.part for part in of_fold] == ["train", "validation", "test"]
        assert sum(part.cases for part in of_fold) == whole.cases
        assert sum(part.groups for part in of_fold) == whole.groups
        for name, counts in whole.counts.items():
            for value, count in counts.items():
                assert sum(part.counts[name][value] for part in of_fold) == count


def test_means_and_unknown_values() -> None:
    cases = [
        PlanCase(name, name, covariates={"age": age})
        for name, age in zip("abcdef", ["10", "20", "30", "44", "", "56"], strict=True)
    ]
    plan = predefined_plan(cases, train=["a", "b"], validation=["c", "d"], test=["e"], seed=0)
    balance = balance_table(plan)
    column = balance.header.index("age")
    assert [row[column] for row in balance.rows] == ["26 (13), 1 unknown", "15 (5)", "37 (7)", "unknown"]
    # The unused case is not counted.
    assert balance.parts[0].cases == 5
    assert plan_warnings(plan)[-1].startswith("1 case(s) are in no part of the plan (f)")


def test_largest_deviation_is_found_and_put_in_words() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", site="ab"[i % 2], label=str(int(i < 20))) for i in range(100)]
    ids = [case.id for case in cases]
    folds = (Fold(0, tuple(ids[40:]), tuple(ids[20:40]), tuple(ids[:20])),)
    hint = balance_table(Plan("predefined", 0, tuple(cases), folds)).hint
    assert "in fold 0, test, label=0 is 0% of the cases, against 80% of all (2.00 standard deviations;" in hint
    assert "20 groups would deviate by about 0.22" in hint
    halves = (Fold(0, tuple(ids[0::2]), tuple(ids[1::2]), ()),)
    hint = balance_table(Plan("predefined", 0, tuple(cases), halves)).hint
    assert "in fold 0, training, site=a is 100% of the cases, against 50% of all (1.00" in hint
    nothing = [PlanCase(name, name) for name in "abc"]
    assert "Nothing is known" in balance_table(predefined_plan(nothing, train="a", validation="b", seed=0)).hint


def test_the_site_that_is_left_out_is_no_deviation() -> None:
    cases = cohort(sites=4)
    plan = draw_plan(cases, config(scheme="leave-one-site-out", stratify=("sex",)), seed=0)
    assert "hospital" not in balance_table(plan).hint


@cache
def many_folds(scheme: str, sites: int) -> Balance:
    cases = cohort(sites=sites, groups=60)
    return balance_table(draw_plan(cases, config(scheme=scheme, stratify=("site", "age"), repeats=12), seed=0))


@pytest.mark.parametrize("scheme", ["stratified-group-k-fold", "leave-one-site-out", "hold-out"])
@pytest.mark.parametrize("sites", [1, 2, 6, 20])
@pytest.mark.parametrize("width", [100, 60, 30])
def test_terminal_table_fits(scheme: str, sites: int, width: int) -> None:
    if scheme == "leave-one-site-out" and sites == 1:
        return
    balance = many_folds(scheme, sites)
    text = format_balance(balance, width).splitlines()
    assert max(map(len, text)) <= width
    after = next(place for place, line in enumerate(text) if line.startswith(("Only", "Not shown", "Largest")))
    lines = text[:after]
    assert lines[0].split()[:4] == ["fold", "part", "cases", "groups"]
    assert len(lines) <= 31
    if width == 100 and sites == 20:
        assert " of 20" in lines[1]
        assert "hospital" not in "".join(lines)
        assert "age" in lines[0] and "sex" in lines[0]
    if sites == 20:
        assert "site" in balance.header and "site=hospital number 3" not in balance.header
    assert ("Only the test parts" in " ".join(text)) == (len(balance.parts) > 30)


def test_repeats_have_a_column_of_their_own() -> None:
    balance = balance_table(draw_plan(cohort(), config(repeats=2), seed=0))
    assert balance.header[:3] == ("Fold", "Repeat", "Part")
    assert [row[1] for row in balance.rows] == ["", *["0"] * 12, *["1"] * 12]


def test_long_and_hostile_names_do_not_break_the_layout() -> None:
    name = "a covariate with a name that goes on " * 5
    cases = [PlanCase(f"c{i}", f"g{i}", covariates={name: "x" * 200 + str(i % 2)}) for i in range(20)]
    balance = balance_table(draw_plan(cases, config(stratify=()), seed=0))
    lines = format_balance(balance).splitlines()
    assert max(map(len, lines)) <= 100


def test_good_plans_have_no_warnings() -> None:
    cases = [case for case in cohort() if case.covariates["age"]]
    assert plan_warnings(draw_plan(cases, config(stratify=("site", "label", "age")), seed=0)) == []


def test_a_class_without_test_cases_is_warned_about() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", label=str(int(i < 3))) for i in range(30)]
    (warning,) = plan_warnings(draw_plan(cases, config(stratify=("label",), folds=5), seed=0))
    assert warning.startswith("Class '1' has no test case in fold ")
    assert len(warning.split("fold ")[1].split(":")[0].split(", ")) == 2


def test_sites_of_one_class_each_are_warned_about() -> None:
    told = [PlanCase(f"c{i}", f"g{i}", site="ab"[i % 2], label=str(i % 2)) for i in range(30)]
    (warning,) = plan_warnings(draw_plan(told, config(stratify=("label",)), seed=0))
    assert warning.startswith("Each site has cases of one class only")
    mixed = [PlanCase(f"c{i}", f"g{i}", site="ab"[i % 2], label=str(i // 2 % 2)) for i in range(32)]
    assert plan_warnings(draw_plan(mixed, config(stratify=("label",)), seed=0)) == []


def test_a_site_with_one_subject_is_warned_about() -> None:
    cases = [PlanCase(f"c{i}", f"g{i // 2}", site="abc"[min(i // 8, 2)]) for i in range(18)]
    plan = draw_plan(cases, config(scheme="leave-one-site-out", stratify=()), seed=0)
    (warning,) = plan_warnings(plan)
    assert "fold 2 (site c, group g8)" in warning and "such a site" in warning


def test_what_held_out_repeats_test_is_told() -> None:
    plan = draw_plan(cohort(), config(scheme="hold-out", repeats=3, stratify=("site",)), seed=0)
    tested = [name for fold in plan.folds for name in fold.test]
    often = sum(tested.count(name) > 1 for name in set(tested))
    never = len(plan.cases) - len(set(tested))
    assert f"{often} of 60 cases are tested more than once and {never} never" in "".join(plan_warnings(plan))


def test_repeats_that_draw_the_same_are_told() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}") for i in range(4)]
    plan = draw_plan(cases, config(stratify=(), folds=4, repeats=2), seed=0)
    assert "Repeats 0, 1 have the same test parts" in "".join(plan_warnings(plan))


def test_unknown_values_that_were_balanced_are_told() -> None:
    cases = cohort()
    unknown = [case.id for case in cases if not case.covariates["age"]]
    (warning,) = plan_warnings(draw_plan(cases, config(stratify=("label", "age")), seed=0))
    assert warning.startswith(f"'age' is not known for {len(unknown)} case(s) ({unknown[0]}")
