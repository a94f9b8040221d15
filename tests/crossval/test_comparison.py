from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.crossval.compare.compare import adjust, compare_runs, compare_scores, short_names
from medformer.crossval.compare.open import open_scores
from medformer.crossval.compare.result import Comparison
from medformer.crossval.compare.sources.run import run_scores
from medformer.crossval.compare.text import format_comparison
from medformer.crossval.plan import Fold, Plan, PlanCase, write_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, DataError, MedformerError
from medformer.evaluation.classes.classification import classification_metrics
from medformer.evaluation.classes.delong import delong_test
from medformer.evaluation.metrics import CLASSES, MASKS
from medformer.evaluation.statistics.ttest import corrected_resampled_ttest, holm
from medformer.files import read_csv, sha256, write_csv, write_json, write_text
from medformer.yaml_files import dump_yaml

Row = dict[str, Any]

CLASSIFICATION = [name for name, metric in CLASSES.items() if metric.comparable]


def draw_plan(groups: int = 12, frames: int = 3, folds: int = 5, repeats: int = 1, seed: int = 0) -> Plan:
    cases = [
        PlanCase(f"g{g:02d}_{f}", f"g{g:02d}", label=str(g % 2), fingerprint=f"hash {g} {f}")
        for g in range(groups)
        for f in range(frames)
    ]
    draw = np.random.default_rng(seed)
    made = []
    for repeat in range(repeats):
        order = draw.permutation(groups)
        for k in range(folds):
            held = {f"g{g:02d}" for g in order[k::folds]}
            test = tuple(case.id for case in cases if case.group in held)
            train = tuple(case.id for case in cases if case.group not in held)
            made.append(Fold(len(made), train, (), test, repeat))
    return Plan("kfold", seed, tuple(cases), tuple(made))


def segmented(plan: Plan, shift: float = 0.0, noise: int = 1) -> list[Row]:
    """Dice that depends on the case, the fold and, a little, on who made it."""
    draw = np.random.default_rng(noise)
    rows = []
    for fold in plan.folds:
        for name in fold.test:
            base = 0.7 + 0.02 * (sum(map(ord, name)) % 7)
            dice = min(1.0, base + shift + 0.03 * float(draw.normal()))
            size = 100 + len(rows) % 5
            rows.append(
                {**place(plan, fold, name), "empty_policy": "one", "truth_px": sum(map(ord, name)), "dice": dice}
            )
            rows[-1] |= {"hd95_px": 40 * (1 - dice), "size": "small", "pred_px": size}
    return rows


def classified(plan: Plan, strength: float = 1.0, noise: int = 1) -> list[Row]:
    draw = np.random.default_rng(noise)
    label = {case.id: int(case.label) for case in plan.cases}
    common = {case.id: float(np.random.default_rng(index).normal()) for index, case in enumerate(plan.cases)}
    rows = []
    for fold in plan.folds:
        for name in fold.test:
            logit = strength * (2 * label[name] - 1) + common[name] + 0.4 * float(draw.normal())
            score = 1 / (1 + math.exp(-logit))
            decision = {"label": label[name], "score": score, "threshold": 0.5, "prediction": int(score >= 0.5)}
            rows.append({**place(plan, fold, name), **decision})
    return rows


def place(plan: Plan, fold: Fold, name: str) -> Row:
    group = next(case.group for case in plan.cases if case.id == name)
    return {"id": name, "fold": fold.index, "repeat": fold.repeat, "group": group, "site": "a"}


MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def make(tmp_path: Path) -> MakeRun:
    """Writes a run folder with a plan and a table."""

    def write(name: str, plan: Plan | None, rows: Sequence[Row], task: str = "polyp") -> RunDirectory:
        run = RunDirectory(tmp_path / name, resumed=True)
        if plan is not None:
            write_json(run.run_json, {"format": "medformer-run/1", "task": task})
            write_plan(run.splits_json, plan)
        write_csv(run.oof_csv, rows, list(rows[0]))
        write_text(run.oof_sha256, f"{sha256(run.oof_csv)}  oof.csv\n")
        return run

    return write


def p_values(comparison: Comparison) -> dict[str, float]:
    return {outcome.method: outcome.p for outcome in comparison.outcomes}


def refused(error: type[MedformerError], a: RunDirectory, b: RunDirectory, *words: str, **options: Any) -> None:
    with pytest.raises(error) as caught:
        compare_runs(a, b, **options)
    for word in words:
        assert word in str(caught.value)


def test_a_run_and_its_copy_differ_by_0_with_p_1_in_every_test(make: MakeRun) -> None:
    plan = draw_plan(groups=40, frames=1)
    for rows, metrics in ((segmented(plan), ["dice", "hd95_px"]), (classified(plan), CLASSIFICATION)):
        a, b = make("a", plan, rows), make("b", plan, rows)
        for other in (a, b):
            for metric in metrics:
                found = compare_runs(a, other, metric=metric)
                assert found.identical
                assert found.difference == 0.0 and found.no_interval
                assert np.isnan([found.low, found.high]).all()
                assert set(p_values(found).values()) == {1.0}
                assert len(p_values(found)) == (3 if metric == "auc" else 2)
                assert (found.folds_won, found.folds_lost, found.folds_tied) == (0, 0, 5)


def test_runs_say_in_which_keys_their_configs_differ(make: MakeRun) -> None:
    plan = draw_plan()
    a, b = (make(name, plan, segmented(plan)) for name in "ab")
    assert compare_runs(a, b).configs == ""
    config = {"seed": 0, "model": {"mixers": None}, "execution": {"workers": 1}}
    write_text(a.config_yaml, dump_yaml(config))
    write_text(b.config_yaml, dump_yaml(config | {"execution": {"workers": 2}}))
    assert compare_runs(a, b).configs == "Their configs are the same."
    write_text(b.config_yaml, dump_yaml(config | {"model": {"mixers": ["pooling"]}}))
    found = compare_runs(a, b)
    assert found.configs == 'Their configs differ in model.mixers (["pooling"] against null) only.'
    assert found.configs in format_comparison(found).replace("\n    ", " ")


def test_means_folds_and_the_fold_test_follow_from_the_tables(make: MakeRun) -> None:
    plan = draw_plan()
    rows = {"a": segmented(plan), "b": segmented(plan, shift=0.03, noise=2)}
    found = compare_runs(make("a", plan, rows["a"]), make("b", plan, rows["b"]))
    dice = {run: {row["id"]: row["dice"] for row in table} for run, table in rows.items()}
    assert found.value_a == pytest.approx(np.mean(list(dice["a"].values())))
    assert found.value_b == pytest.approx(np.mean(list(dice["b"].values())))
    assert found.difference == pytest.approx(found.value_b - found.value_a)
    assert found.low < found.difference < found.high
    assert (found.cases, found.groups, found.repeats, found.test) == (36, 12, 1, "bootstrap")
    by_fold = [np.mean([dice["b"][name] - dice["a"][name] for name in fold.test]) for fold in plan.folds]
    assert found.fold_differences == pytest.approx(by_fold)
    assert found.folds_won == sum(value > 0 for value in by_fold)
    expected = corrected_resampled_ttest(
        by_fold, [len(fold.train) for fold in plan.folds], [len(fold.test) for fold in plan.folds]
    )
    assert found.fold_test is not None
    assert (found.fold_test.difference, found.fold_test.p) == pytest.approx((expected.mean, expected.p))


def test_the_order_of_rows_does_not_matter_and_the_order_of_runs_turns_the_sign(make: MakeRun) -> None:
    plan = draw_plan()
    first, second = segmented(plan), segmented(plan, shift=0.03, noise=2)
    a, b, c = make("a", plan, first), make("b", plan, second), make("c", plan, second[::-1])
    forward, backward, shuffled = compare_runs(a, b), compare_runs(b, a), compare_runs(a, c)
    assert forward.difference == pytest.approx(-backward.difference)
    assert (forward.folds_won, forward.folds_lost) == (backward.folds_lost, backward.folds_won)
    assert replace(shuffled, run_b=forward.run_b, name_b=forward.name_b) == forward


def test_where_less_is_better_the_run_with_less_wins(make: MakeRun) -> None:
    plan = draw_plan()
    a, b = make("a", plan, segmented(plan)), make("b", plan, segmented(plan, shift=0.05, noise=2))
    found = compare_runs(a, b, metric="hd95_px")
    assert found.difference < 0
    assert found.lower_is_better
    assert found.folds_won > found.folds_lost


def test_whole_groups_are_resampled(make: MakeRun) -> None:
    """Frames of a patient that all differ alike are one piece of evidence, so the interval must be wide."""
    plan = draw_plan(groups=12, frames=3)
    rows = segmented(plan)
    effect = {f"g{g:02d}": 0.05 * float(np.random.default_rng(g + 50).normal()) for g in range(12)}
    moved = [{**row, "dice": row["dice"] + effect[row["group"]]} for row in rows]
    grouped = compare_runs(make("a", plan, rows), make("b", plan, moved))
    alone = replace(plan, cases=tuple(replace(case, group=case.id) for case in plan.cases))
    single = [[{**row, "group": row["id"]} for row in table] for table in (rows, moved)]
    naive = compare_runs(make("c", alone, single[0]), make("d", alone, single[1]))
    assert (grouped.groups, naive.groups) == (12, 36)
    assert grouped.high - grouped.low > 1.3 * (naive.high - naive.low)


def test_repeats_count_as_folds_but_not_as_cases(make: MakeRun) -> None:
    plan = draw_plan(repeats=3)
    found = compare_runs(make("a", plan, segmented(plan)), make("b", plan, segmented(plan, 0.02, 2)))
    assert (found.cases, found.groups, found.repeats, found.folds) == (36, 12, 3, 15)
    assert found.fold_test is not None
    assert found.fold_test.units == 15


def test_classifications_are_compared_by_auc_with_delong(make: MakeRun) -> None:
    plan = draw_plan(groups=40, frames=1)
    rows = classified(plan, 0.4), classified(plan, 1.5, 2)
    found = compare_runs(make("a", plan, rows[0], "abide"), make("b", plan, rows[1], "abide"))
    label = [row["label"] for row in rows[0]]
    scores = [[row["score"] for row in table] for table in rows]
    expected = delong_test(label, *scores)
    assert (found.metric, found.test, found.cases, found.groups) == ("auc", "delong", 40, 40)
    assert (found.value_a, found.value_b) == pytest.approx((expected.auc_a, expected.auc_b))
    assert (found.low, found.high, found.p) == pytest.approx((expected.low, expected.high, expected.p))
    assert found.bootstrap.difference == pytest.approx(expected.difference)
    assert abs(found.bootstrap.low - found.low) < 0.1


def test_with_several_cases_per_patient_the_interval_is_from_groups_and_delong_is_cautioned(make: MakeRun) -> None:
    plan = draw_plan(groups=20, frames=3)
    found = compare_runs(make("a", plan, classified(plan, 0.4)), make("b", plan, classified(plan, 1.5, 2)))
    assert found.test == "bootstrap"
    assert found.delong is not None
    assert any("DeLong" in caution and "60 cases" in caution for caution in found.cautions)


def test_with_repeats_delong_takes_the_mean_score_of_a_case_and_says_so(make: MakeRun) -> None:
    plan = draw_plan(groups=30, frames=1, repeats=4)
    tables = classified(plan, 0.3), classified(plan, 1.2, 2)
    found = compare_runs(make("a", plan, tables[0]), make("b", plan, tables[1]))
    names = sorted({row["id"] for row in tables[0]})
    label = {row["id"]: row["label"] for row in tables[0]}
    means = [[np.mean([row["score"] for row in table if row["id"] == name]) for name in names] for table in tables]
    expected = delong_test([label[name] for name in names], *means)
    assert found.delong is not None
    assert (found.delong.difference, found.delong.p) == pytest.approx((expected.difference, expected.p))
    assert found.delong.units == 30
    assert found.test == "bootstrap"
    assert any("mean score over 4 repeats" in caution for caution in found.cautions)


@pytest.mark.parametrize("metric", [name for name in CLASSIFICATION if name != "auc"])
def test_every_classification_metric_is_that_of_the_evaluation(make: MakeRun, metric: str) -> None:
    plan = draw_plan(groups=30, frames=1)
    tables = classified(plan, 0.4), classified(plan, 1.5, 2)
    found = compare_runs(make("a", plan, tables[0]), make("b", plan, tables[1]), metric=metric)
    for value, rows in zip((found.value_a, found.value_b), tables, strict=True):
        columns = ([row[name] for row in rows] for name in ("label", "score", "prediction"))
        assert value == pytest.approx(classification_metrics(*columns)[metric])
    assert found.difference == pytest.approx(found.value_b - found.value_a)
    assert found.delong is None
    assert found.folds_won + found.folds_lost + found.folds_tied == 5


def test_every_metric_of_a_run_can_be_compared_or_says_why_not(make: MakeRun) -> None:
    plan = draw_plan(groups=12, frames=1)
    for rows, table in ((segmented(plan), MASKS), (classified(plan), CLASSES)):
        more = {name: 0.5 for name, metric in table.items() if metric.per_case and name not in rows[0]}
        run = make("a", plan, [{**row, **more} for row in rows])
        for name, metric in table.items():
            if metric.comparable:
                found = compare_runs(run, run, metric=name)
                assert (found.metric, found.title, found.digits) == (name, metric.phrase, metric.digits)
                assert found.lower_is_better == (metric.direction == "lower")
            else:
                refused(ConfigError, run, run, "best at" if metric.direction == "target" else name, metric=name)


def test_three_runs_are_adjusted_together(make: MakeRun) -> None:
    plan = draw_plan(groups=40, frames=1)
    runs = [make(name, plan, classified(plan, 0.3 + 0.6 * k, k)) for k, name in enumerate("abcd")]
    found = compare_scores([run_scores(run) for run in runs])
    assert [comparison.name_b for comparison in found] == ["b", "c", "d"]
    assert {comparison.run_a for comparison in found} == {str(runs[0].path)}
    assert {comparison.together for comparison in found} == {3}
    assert [c.p_holm for c in found] == pytest.approx(holm([c.p for c in found]))
    for pick in ("bootstrap", "fold_test", "delong"):
        outcomes = [getattr(comparison, pick) for comparison in found]
        assert [o.p_holm for o in outcomes] == pytest.approx(holm([o.p for o in outcomes]))
    assert any(comparison.p_holm > comparison.p for comparison in found)
    with pytest.raises(ConfigError, match="expected two or more"):
        compare_scores([run_scores(runs[0])])


def test_a_single_comparison_needs_no_adjustment(make: MakeRun) -> None:
    plan = draw_plan()
    found = compare_runs(make("a", plan, segmented(plan)), make("b", plan, segmented(plan, 0.02, 2)))
    assert adjust([found]) == [found]
    assert found.p_holm == found.p


def test_baselines_use_the_plan_of_the_run_that_holds_them(make: MakeRun, tmp_path: Path) -> None:
    plan = draw_plan()
    run = make("run", plan, segmented(plan, 0.05))
    baseline = make("run/baselines/prior", None, segmented(plan, noise=2))
    found = compare_runs(baseline, run)
    assert (found.name_a, found.name_b, found.folds) == ("prior", "run", 5)
    assert open_scores(baseline.path) == run_scores(baseline)
    with pytest.raises(ConfigError, match="There are no scores in"):
        open_scores(tmp_path)


def test_different_plans_are_refused_with_what_differs(make: MakeRun) -> None:
    plan = draw_plan()
    a = make("a", plan, segmented(plan))
    other = draw_plan(seed=1)
    b = make("b", other, segmented(other))
    refused(ConfigError, a, b, str(a.path), str(b.path), "different fold plans", "the folds differ", "--shared-cases")
    more = draw_plan(groups=13)
    c = make("c", more, segmented(more))
    refused(ConfigError, a, c, "3 only in the second: g12_0, g12_1, g12_2")
    changed = replace(plan, cases=(replace(plan.cases[0], fingerprint="new"), *plan.cases[1:]))
    refused(ConfigError, a, make("d", changed, segmented(changed)), "the data differ")


def test_what_different_plans_share_is_compared_when_asked_and_the_loss_is_said(make: MakeRun) -> None:
    plan, other = draw_plan(groups=12), draw_plan(groups=14, seed=1)
    a, b = make("a", plan, segmented(plan)), make("b", other, segmented(other, 0.02, 2))
    found = compare_runs(a, b, allow_different_plans=True)
    assert (found.cases, found.groups, found.folds) == (36, 12, 0)
    assert found.lost.only_a == ()
    assert len(found.lost.only_b) == 6
    assert found.fold_test is None
    text = " ".join(found.cautions)
    assert "6 predictions only in b left out: g12_0" in text
    assert "No test over folds: the folds differ" in text


def test_shared_folds_keep_their_test_though_the_plans_differ(make: MakeRun) -> None:
    plan = draw_plan()
    a, b = make("a", plan, segmented(plan)), make("b", replace(plan, seed=9), segmented(plan, 0.02, 2))
    refused(ConfigError, a, b, "the folds are the same, seed or settings are not")
    found = compare_runs(a, b, allow_different_plans=True)
    assert found.fold_test is not None
    assert not found.lost


def test_missing_cases_are_refused_unless_only_shared_ones_are_asked_for(make: MakeRun) -> None:
    plan = draw_plan()
    a, b = make("a", plan, segmented(plan)), make("b", plan, segmented(plan, 0.02, 2)[1:])
    refused(ConfigError, a, b, "predicted different cases", "1 only in the first", "--resume")
    found = compare_runs(a, b, allow_different_plans=True)
    assert (found.cases, found.folds, len(found.lost.only_a)) == (35, 5, 1)
    refused(
        ConfigError,
        make("c", plan, segmented(plan)[:9]),
        make("d", plan, segmented(plan)[9:]),
        "no case in common",
        allow_different_plans=True,
    )


def test_runs_of_different_tasks_are_refused(make: MakeRun) -> None:
    plan = draw_plan()
    a = make("a", plan, segmented(plan))
    refused(ConfigError, a, make("b", plan, segmented(plan), "volume"), "different tasks", "polyp", "volume")
    refused(ConfigError, a, make("c", plan, classified(plan)), "segmentation", "classification")


@pytest.mark.parametrize("shared", [False, True])
def test_runs_of_different_truth_are_refused_and_the_case_is_named(make: MakeRun, shared: bool) -> None:
    plan = draw_plan()
    a, b = make("a", plan, segmented(plan)), segmented(plan)
    b[4]["truth_px"] += 1
    words = "do not have the same truth", "another truth (truth_px)", b[4]["id"]
    refused(ConfigError, a, make("b", plan, b), *words, allow_different_plans=shared)
    c, d = make("c", plan, classified(plan)), classified(plan)
    d[7]["label"] = 1 - d[7]["label"]
    refused(ConfigError, c, make("d", plan, d), "(label)", d[7]["id"], allow_different_plans=shared)


def test_shared_cases_with_other_content_or_groups_are_refused(make: MakeRun) -> None:
    plan = draw_plan()
    a = make("a", plan, segmented(plan))
    for field, what in (("fingerprint", "with changed content"), ("group", "in another group")):
        changed = replace(plan, cases=(replace(plan.cases[0], **{field: "other"}), *plan.cases[1:]))
        refused(
            ConfigError,
            a,
            make(f"other {field}", changed, segmented(changed)),
            f"1 {what} (g00_0)",
            allow_different_plans=True,
        )


def test_scores_by_different_rules_are_refused(make: MakeRun) -> None:
    plan = draw_plan()
    zero = [{**row, "empty_policy": "zero"} for row in segmented(plan)]
    refused(ConfigError, make("a", plan, segmented(plan)), make("b", plan, zero), "empty_policy: one; zero")


def test_tables_that_no_run_wrote_are_refused(make: MakeRun) -> None:
    plan = draw_plan()
    a, b = make("a", plan, segmented(plan)), make("b", plan, segmented(plan))
    recorded = sha256(b.oof_csv)[:12]
    rows = read_csv(b.oof_csv)
    rows[0]["dice"] = "0.99"
    write_csv(b.oof_csv, rows, list(rows[0]))
    refused(DataError, a, b, recorded, sha256(b.oof_csv)[:12])
    moved = segmented(plan)
    moved[0]["fold"] += 1
    refused(DataError, a, make("c", plan, moved), moved[0]["id"], "the plan tests it in fold")
    twice = segmented(plan)
    refused(DataError, a, make("d", plan, [*twice, twice[0]]), "twice")
    words = [{**row, "dice": "good" if index == 3 else row["dice"]} for index, row in enumerate(segmented(plan))]
    refused(DataError, a, make("e", plan, words), "'good'", words[3]["id"])


def test_an_unfinished_run_is_refused(make: MakeRun) -> None:
    plan = draw_plan()
    a, b = make("a", plan, segmented(plan)), make("b", plan, segmented(plan))
    b.oof_csv.unlink()
    refused(DataError, a, b, str(b.path), "no out-of-fold table", "--resume")
    refused(ConfigError, a, RunDirectory(b.path.parent / "nothing"), "neither a run folder nor a baseline")


def test_metrics_that_cannot_be_compared_are_named(make: MakeRun) -> None:
    plan = draw_plan()
    a, c = make("a", plan, segmented(plan)), make("c", plan, classified(plan))
    refused(ConfigError, a, a, "Did you mean 'dice'", metric="dicee")
    refused(ConfigError, a, a, "column 'iou'", "dice", metric="iou")
    refused(ConfigError, c, c, "best at 1", metric="calibration_slope")


def test_an_auc_of_decisions_or_of_one_class_is_refused(make: MakeRun) -> None:
    plan = draw_plan()
    a = make("a", plan, classified(plan))
    hard = [{**row, "score": row["prediction"]} for row in classified(plan)]
    refused(DataError, a, make("b", plan, hard), "oof.csv", "decisions")
    single = replace(plan, cases=tuple(replace(case, label="1") for case in plan.cases))
    one = make("c", single, classified(single))
    refused(DataError, one, one, "AUC is not defined", str(one.oof_csv))


def test_a_fold_of_one_class_is_left_out_of_the_fold_test(make: MakeRun) -> None:
    plan = draw_plan(groups=10, frames=2, folds=5)
    label = {name: "1" for name in plan.folds[0].test}
    plan = replace(plan, cases=tuple(replace(case, label=label.get(case.id, case.label)) for case in plan.cases))
    found = compare_runs(make("a", plan, classified(plan, 0.3)), make("b", plan, classified(plan, 1.0, 2)))
    assert math.isnan(found.fold_differences[0])
    assert found.fold_test is not None
    assert found.fold_test.units == found.folds == 5 - sum(map(math.isnan, found.fold_differences))
    assert any("not defined in" in caution for caution in found.cautions)


def test_cases_without_the_metric_are_left_out_of_both_runs(make: MakeRun) -> None:
    plan = draw_plan()
    rows = segmented(plan, 0.02, 2)
    rows[0]["dice"] = ""
    found = compare_runs(make("a", plan, segmented(plan)), make("b", plan, rows))
    assert (found.cases, found.left_out) == (35, 1)
    assert any("left out" in caution for caution in found.cautions)
    assert found.value_a == pytest.approx(np.mean([row["dice"] for row in segmented(plan)[1:]]))
    nothing = [{**row, "dice": ""} for row in rows]
    refused(DataError, make("c", plan, rows), make("d", plan, nothing), "No case has Dice")


def test_few_groups_and_folds_are_cautioned_and_one_group_gives_no_interval(make: MakeRun) -> None:
    few = draw_plan(groups=6, folds=3)
    found = compare_runs(make("a", few, segmented(few)), make("b", few, segmented(few, 0.02, 2)))
    assert any("Only 6 groups" in caution for caution in found.cautions)
    assert any("Only 3 folds" in caution for caution in found.cautions)
    enough = draw_plan(groups=12, folds=5)
    found = compare_runs(make("e", enough, segmented(enough)), make("f", enough, segmented(enough, 0.02, 2)))
    assert found.cautions == ()
    one = draw_plan(groups=1, frames=4, folds=1)
    one = replace(one, folds=(Fold(0, ("g00_0",), (), ("g00_1", "g00_2", "g00_3")),))
    found = compare_runs(make("c", one, segmented(one)), make("d", one, segmented(one, 0.02, 2)))
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert found.fold_test is None
    assert any("No test over folds" in caution for caution in found.cautions)


def test_short_names_tell_folders_apart(tmp_path: Path) -> None:
    assert short_names([tmp_path / "one" / "run", tmp_path / "two" / "run"]) == ["one/run", "two/run"]
    assert short_names([tmp_path / "run", tmp_path / "run"]) == ["run", "run (2)"]
    assert short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
