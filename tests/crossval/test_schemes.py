from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold, Plan, PlanCase, read_plan, write_plan
from medformer.crossval.plan.group_split import draw_validation, groups_by_class
from medformer.crossval.plan.schemes import draw_plan, make_plan, predefined_plan
from medformer.crossval.run.collect import collect, read_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import execute
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
    for seed in range(80):
        cases = cohort(seed)
        folds = 2 + seed % 6
        groups = {case.group for case in cases}
        try:
            plan = make_plan(cases, folds=folds, validation=(0.1, 0.15, 0.3, 0.5, 0.8)[seed % 5], seed=seed)
        except DataError as error:
            outcomes["refused"] += 1
            assert len(groups) < max(folds, 4 if folds == 2 else 3)
            assert f"{len(groups)} group" in str(error)
            continue
        outcomes["planned"] += 1
        check_partition(plan)
    assert outcomes["planned"] > 40
    assert outcomes["refused"] > 2


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


def test_given_parts_need_every_class_in_training_and_validation() -> None:
    cases = [PlanCase(name, name, label=label) for name, label in zip("abcdef", "010101", strict=True)]
    assert predefined_plan(cases, train=["a", "b"], validation=["c", "d"], test=["e"], seed=0).folds
    with pytest.raises(DataError, match="class '1' in its validation part"):
        predefined_plan(cases, train=["a", "b"], validation=["c", "e"], test=["f"], seed=0)
    with pytest.raises(DataError, match="The split: class '0' comes from 0 group"):
        predefined_plan(cases, train=["b", "d"], validation=0.5, test=["a"], seed=0)


SCHEMES = ("stratified-group-k-fold", "stratified-k-fold", "leave-one-site-out", "leave-one-dataset-out", "hold-out")


def settings(scheme: str = "stratified-group-k-fold", **changes: Any) -> CrossvalConfig:
    return CrossvalConfig.model_validate({"scheme": scheme, "stratify": ("site",), "validation": 0.2, **changes})


def patients(seed: int, scheme: str) -> list[PlanCase]:
    """Random labeled cohorts; patients stay at one site, and have one scan each where the scheme needs that."""
    draw = random.Random(seed)
    sites = [f"site{number}" for number in range(draw.randint(2, 6))]
    rare = draw.choice([0.1, 0.3, 0.5])
    cases = []
    for group in range(draw.randint(4, 40)):
        site = draw.choice(sites)
        label = str(int(draw.random() < rare))
        for scan in range(1 if scheme == "stratified-k-fold" else draw.choice([1, 1, 2, 5])):
            covariates = {
                "age": draw.choice(["", "nan", f"{draw.gauss(40, 15):.1f}"]),
                "sex": draw.choice(["F", "M", ""]),
                "dataset": "AB"[int(site == sites[0])],
            }
            changed = label if draw.random() < 0.9 else str(1 - int(label))
            cases.append(PlanCase(f"p{group}_{scan}", f"p{group}", "", "hash", site, changed, covariates))
    draw.shuffle(cases)
    return cases


@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_labeled_cohorts_are_divided_as_promised_or_refused(scheme: str) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(24):
        cases = patients(seed, scheme)
        config = settings(
            scheme,
            folds=2 + seed % 4,
            repeats=1 + seed % 3,
            validation=(0.1, 0.2, 0.4, 0.6)[seed % 4],
            test=(0.1, 0.25, 0.4)[seed % 3],
            stratify=(("site", "label"), ("label", "age", "sex"), (), ("age",))[seed % 4],
        )
        try:
            plan = draw_plan(cases, config, seed=seed)
        except DataError:
            outcomes["refused"] += 1
            assert hopeless(cases, config), seed
            continue
        except ConfigError as error:
            assert "none of the" in str(error)
            continue
        outcomes["planned"] += 1
        check(plan, config)
        # Drawing again takes as long as drawing; which cohort it is makes no difference to it.
        if outcomes["planned"] % 4 == 1:
            assert draw_plan(cases, config, seed=seed) == plan
    assert outcomes["planned"] > 8, outcomes


def hopeless(cases: list[PlanCase], config: CrossvalConfig) -> bool:
    """Whether a refusal was right: too few groups, or a class that cannot be where it must be."""
    groups = {case.group for case in cases}
    owners = groups_by_class(cases)
    fewest = {"hold-out": 3, "leave-one-site-out": 2, "leave-one-dataset-out": 2}
    if len(owners) < 2 or len(groups) < fewest.get(config.scheme, max(config.folds, 4 if config.folds == 2 else 3)):
        return True
    if config.scheme in ("leave-one-site-out", "leave-one-dataset-out"):
        column = "site" if config.scheme == "leave-one-site-out" else "dataset"
        values = {case.id: case.site if column == "site" else case.covariates["dataset"] for case in cases}
        rests = [[case for case in cases if values[case.id] != left] for left in set(values.values())]
    else:
        rests = [cases]

    def enough(count: int) -> bool:
        largest = -(-count // config.folds) if "k-fold" in config.scheme else 0
        return count - largest >= 2

    return any(
        len({case.group for case in rest}) < 2
        or len(groups_by_class(rest)) < len(owners)
        or not all(enough(len(found)) for found in groups_by_class(rest).values())
        for rest in rests
    )


def check(plan: Plan, config: CrossvalConfig) -> None:
    by_id = {case.id: case for case in plan.cases}
    classes = {case.label for case in plan.cases}
    tested: dict[int, list[str]] = {}
    for fold in plan.folds:
        assert sorted([*fold.train, *fold.validation, *fold.test]) == sorted(by_id)
        groups = [{by_id[name].group for name in ids} for ids in fold.parts.values()]
        assert all(groups) and sum(map(len, groups)) == len(set().union(*groups))
        assert {by_id[name].label for name in fold.train} == classes
        assert {by_id[name].label for name in fold.validation} == classes
        tested.setdefault(fold.repeat, []).extend(fold.test)
    if config.scheme == "hold-out":
        assert [fold.repeat for fold in plan.folds] == list(range(config.repeats))
        return
    assert all(sorted(names) == sorted(by_id) for names in tested.values())
    if config.scheme.startswith("leave"):
        column = "site" if config.scheme == "leave-one-site-out" else "dataset"
        assert plan.settings["left_out"] == column
        homes = [
            {c.site if column == "site" else c.covariates[column] for c in map(by_id.get, f.test)} for f in plan.folds
        ]
        assert all(len(home) == 1 for home in homes)
        assert [min(home) for home in homes] == sorted({min(home) for home in homes})
        assert list(tested) == [0]
    else:
        assert list(tested) == list(range(config.repeats))
        assert len(plan.folds) == config.repeats * config.folds


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_seeds_draw_other_plans(scheme: str) -> None:
    cases = patients(12, scheme)
    drawn = [draw_plan(cases, settings(scheme, folds=3), seed=seed).folds for seed in range(4)]
    assert len(set(drawn)) > 1


def test_a_plan_does_not_depend_on_who_else_drew_one() -> None:
    cases = patients(12, "hold-out")
    first = draw_plan(cases, settings(repeats=2), seed=5)
    random.seed(99)
    assert draw_plan(cases, settings(repeats=2), seed=5) == first
    # The first repeat is the plan without repeats, and the second another.
    single = draw_plan(cases, settings(), seed=5)
    assert single.folds == first.folds[:5]
    assert {fold.test for fold in first.folds[5:]} != {fold.test for fold in first.folds[:5]}


def test_several_columns_are_balanced_at_once() -> None:
    draw = random.Random(0)
    cases = [
        PlanCase(
            f"c{i}",
            f"g{i}",
            site=draw.choice("aaab"),
            label=str(int(draw.random() < 0.3)),
            covariates={"age": str(draw.gauss(30 if i % 2 else 60, 5))},
        )
        for i in range(300)
    ]
    plan = draw_plan(cases, settings(folds=5, stratify=("label", "site", "age")), seed=0)
    age = {case.id: float(case.covariates["age"]) for case in cases}
    for trait in ("label", "site"):
        first = {case.id for case in cases if getattr(case, trait) in "1b"}
        for fold in plan.folds:
            for ids in fold.parts.values():
                assert len(first & set(ids)) / len(ids) == pytest.approx(len(first) / 300, abs=0.05)
    means = [sum(age[name] for name in fold.test) / len(fold.test) for fold in plan.folds]
    assert max(means) - min(means) < 3
    unbalanced = draw_plan(cases, settings(folds=5, stratify=()), seed=0)
    wide = [sum(age[name] for name in fold.test) / len(fold.test) for fold in unbalanced.folds]
    assert max(wide) - min(wide) > max(means) - min(means)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_held_out_part_has_about_the_share_asked_for(share: float) -> None:
    cases = [PlanCase(f"c{i}", f"g{i // 2}", site="ab"[i // 2 % 2]) for i in range(200)]
    plan = draw_plan(cases, settings("hold-out", test=share, repeats=4), seed=3)
    for fold in plan.folds:
        assert len(fold.test) / 200 == pytest.approx(share, abs=0.03)
        assert sum(name in {c.id for c in cases if c.site == "a"} for name in fold.test) == pytest.approx(
            len(fold.test) / 2, abs=3
        )
    assert len({fold.test for fold in plan.folds}) == 4


def test_a_rare_class_is_spread_over_test_parts_and_kept_in_the_others() -> None:
    # Four patients of one class, five folds, and nothing to balance by: chance alone would often put two together.
    cases = [PlanCase(f"c{i}", f"g{i}", label=str(int(i < 4))) for i in range(60)]
    positive = {case.id for case in cases if case.label == "1"}
    for seed in range(8):
        plan = draw_plan(cases, settings(stratify=(), folds=5), seed=seed)
        assert sorted(len(positive & set(fold.test)) for fold in plan.folds) == [0, 1, 1, 1, 1]
        assert all(positive & set(fold.train) and positive & set(fold.validation) for fold in plan.folds)


def test_a_class_of_two_patients_is_learnt_rather_than_tested() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", label=str(int(i < 2))) for i in range(12)]
    positive = {"c0", "c1"}
    for seed in range(20):
        (fold,) = draw_plan(cases, settings("hold-out", stratify=(), test=0.3), seed=seed).folds
        assert not positive & set(fold.test) and positive & set(fold.train) and positive & set(fold.validation)
        assert len(fold.test) in (2, 3, 4)


@pytest.mark.parametrize(
    ("scheme", "cases", "message"),
    [
        ("stratified-group-k-fold", [("a", "p", "x", "")], "1 group"),
        ("stratified-group-k-fold", [(str(i), str(i % 4), "x", "") for i in range(40)], "5 folds .* 4 group"),
        ("stratified-group-k-fold", [(str(i), "p", "x", "") for i in range(9)], r"from 1 group\. Add patients"),
        ("hold-out", [("a", "p", "x", ""), ("b", "q", "x", "")], "2 group.* least 3 groups"),
        ("stratified-k-fold", [(str(i), str(i % 9), "x", "") for i in range(18)], "'0' holds 0, 9.*-group-k-fold"),
        ("leave-one-site-out", [(str(i), str(i), "x", "") for i in range(9)], "have the site 'x'.* at least 2"),
        (
            "leave-one-site-out",
            [(str(i), str(i), "xy"[i > 0], "") for i in range(5)],
            "Fold 1 .without site 'y'.* 1 group",
        ),
        (
            "leave-one-site-out",
            [(str(i), str(i), "xy "[i % 3], "") for i in range(9)],
            r"3 case.s. have no site .2, 5, 8",
        ),
        ("leave-one-dataset-out", [(str(i), str(i), "", "") for i in range(9)], "9 case.s. have no site"),
        ("leave-one-site-out", [(str(i), str(i // 2), "xy"[i % 2], "") for i in range(9)], r"4 group.s. .* 0 .x, y."),
        ("hold-out", [(str(i), str(i), "x", "1") for i in range(9)], "All 9 cases have the label '1'"),
        ("hold-out", [(str(i), str(i), "x", "01 "[i % 3].strip()) for i in range(9)], "no label .2, 5, 8.* other 6"),
        ("stratified-group-k-fold", [(str(i), str(i), "x", "01"[i == 3]) for i in range(20)], "class '1' comes from"),
        ("stratified-group-k-fold", [(str(i), str(i), "x", "01"[i < 2]) for i in range(20)], "class '1' comes from 1 "),
        ("hold-out", [(str(i), str(i), "x", "01"[i == 3]) for i in range(20)], "class '1' comes from 1 group"),
        ("hold-out", [(str(i), str(i), "x", "01"[i % 2]) for i in range(4)], "class '.' comes from 1 group"),
        ("leave-one-site-out", [(str(i), str(i), "xy"[i % 2], "01"[i % 2]) for i in range(20)], "class '0'|class '1'"),
        ("hold-out", [("same", str(i), "x", "") for i in range(9)], "same occur more than once"),
        ("predefined", [("a", "p", "x", "")], "no training cases"),
    ],
)
def test_hostile_cohorts_are_refused(scheme: str, cases: list[tuple[str, str, str, str]], message: str) -> None:
    planned = [PlanCase(name, group, site=site.strip(), label=label) for name, group, site, label in cases]
    with pytest.raises(DataError, match=message):
        draw_plan(planned, settings(scheme), seed=0)


def test_classes_that_share_their_patients_are_refused_when_they_cannot_be_divided() -> None:
    cases = [PlanCase(f"{group}{label}", group, label=label) for group, label in ("p1", "p2", "q1", "q3", "r2", "r3")]
    with pytest.raises(DataError, match=r"Here: class '1' comes from 2 group\(s\) \(p, q\).* cannot be divided"):
        draw_validation(cases, 0.3, 0, classes="123", where="Here")


def test_a_site_missing_a_class_is_tested_all_the_same() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", site="xyz"[i % 3], label=str(int(i % 3 > 0 and i % 2))) for i in range(30)]
    plan = draw_plan(cases, settings("leave-one-site-out"), seed=0)
    assert {case.label for case in cases if case.id in plan.folds[0].test} == {"0"}


def test_two_sites_are_enough_to_leave_one_out() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", site="xy"[i % 2]) for i in range(8)]
    plan = draw_plan(cases, settings("leave-one-site-out"), seed=0)
    assert [{name[1:] for name in fold.test} for fold in plan.folds] == [set("0246"), set("1357")]


def test_validation_knows_all_sites_that_are_left() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", site="wxyz"[i % 4], covariates={"sex": "FM"[i % 3 == 0]}) for i in range(160)]
    plan = draw_plan(cases, settings("leave-one-site-out", stratify=("sex",)), seed=0)
    assert plan.settings["stratify"] == ["site", "sex"]
    site = {case.id: case.site for case in cases}
    for fold in plan.folds:
        found = Counter(site[name] for name in fold.validation)
        assert len(found) == 3 and max(found.values()) - min(found.values()) <= 2


def test_datasets_are_left_out_by_their_covariate_where_there_is_one() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", site="wxyz"[i % 4], covariates={"dataset": "AB"[i % 4 > 1]}) for i in range(24)]
    config = settings("leave-one-dataset-out")
    assert len(draw_plan(cases, config, seed=0).folds) == 2
    bare = [replace(case, covariates={}) for case in cases]
    assert len(draw_plan(bare, config, seed=0).folds) == 4
    part = [replace(case, covariates={}) if case.id == "c3" else case for case in cases]
    with pytest.raises(DataError, match=r"no dataset \(c3\)"):
        draw_plan(part, config, seed=0)


def test_predefined_parts_are_taken_or_drawn() -> None:
    cases = [PlanCase(f"c{i}", f"g{i // 2}", site="xy"[i % 2]) for i in range(20)]
    ids = [case.id for case in cases]
    config = settings("predefined")
    given = draw_plan(cases, config, seed=0, train=ids[:8], validation=ids[8:12], test=ids[12:])
    assert given.folds[0].parts == {"train": tuple(ids[:8]), "validation": tuple(ids[8:12]), "test": tuple(ids[12:])}
    assert given.settings["validation"] is None
    drawn = draw_plan(cases, config, seed=0, train=ids[:10], test=ids[12:])
    assert len(drawn.folds[0].validation) == 2 and drawn.settings["validation"] == 0.2
    # What the manifest says about parts is for this scheme alone.
    held = draw_plan(cases, settings("hold-out"), seed=0, train=ids[:2], test=ids[2:3])
    assert held == draw_plan(cases, settings("hold-out"), seed=0)


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        (
            settings(folds=3, repeats=2, stratify=("site", "label", "age")),
            {"folds": 3, "repeats": 2, "validation": 0.2, "stratify": ["site", "label", "age"]},
        ),
        (
            settings("leave-one-dataset-out"),
            {"left_out": "dataset", "validation": 0.2, "stratify": ["dataset", "site"]},
        ),
        (settings("hold-out", stratify=()), {"test": 0.2, "repeats": 1, "validation": 0.2, "stratify": []}),
    ],
)
def test_a_plan_says_how_it_was_drawn(config: CrossvalConfig, facts: dict[str, Any], tmp_path: Path) -> None:
    plan = draw_plan(patients(12, config.scheme), config, seed=7)
    assert (plan.scheme, plan.seed, plan.settings) == (config.scheme, 7, {**facts, "bins": 3})
    write_plan(tmp_path / "splits.json", plan)
    assert read_plan(tmp_path / "splits.json") == plan


def test_held_out_repeats_run_and_collect(run: RunDirectory, job: Callable[[Fold, Path, bool], None]) -> None:
    plan = draw_plan(patients(12, "hold-out"), settings("hold-out", repeats=3), seed=0)
    execute(plan, job, run)
    rows = read_oof(collect(run, plan))
    assert [(row["repeat"], row["fold"]) for row in rows] == [
        (fold.repeat, fold.index) for fold in plan.folds for _ in fold.test
    ]
    assert sorted(row["id"] for row in rows) == sorted(name for fold in plan.folds for name in fold.test)
    # A finished repeat is not run again, although its cases occur in others.
    execute(plan, lambda fold, folder, resume: pytest.fail("done already"), run)
