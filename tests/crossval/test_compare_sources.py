"""Tables of scores from elsewhere give the numbers that the statistics give on arrays."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.crossval.compare.compare import compare_scores
from medformer.crossval.compare.open import open_scores, open_tables
from medformer.crossval.compare.result import Comparison
from medformer.crossval.compare.sources.table import scores_of
from medformer.crossval.plan import Fold, Plan, PlanCase, write_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.splits.read import read_split
from medformer.errors import ConfigError, DataError
from medformer.evaluation.classes.delong import delong_test
from medformer.evaluation.statistics.bootstrap import paired_grouped_test
from medformer.evaluation.statistics.ttest import corrected_resampled_ttest
from medformer.files import sha256, write_csv, write_json

IDS = [f"p{patient:02d}_{scan}" for patient in range(15) for scan in range(2)]
GROUPS = [name[:3] for name in IDS]
FOLDS = [index // 2 % 5 for index in range(30)]
DRAW = np.random.default_rng(3)
A = 0.8 + 0.05 * DRAW.normal(size=30)
B = A + 0.01 + 0.03 * DRAW.normal(size=30)


def csv(path: Path, **columns: Any) -> Path:
    table = {"id": IDS, **columns}
    write_csv(path, [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)], list(table))
    return path


def nnunet(folder: Path, dice: np.ndarray[Any, Any], second: float = 0.0, folded: bool = True) -> Path:
    """nnU-Net's folder of a trainer; the second label is `second` better than the first, which is NaN in no case."""
    write_json(folder / "dataset.json", {"labels": {"background": 0, "liver": 1, "whole": [1, 2]}})
    for fold in range(5) if folded else (0,):
        of_fold = [
            {
                "prediction_file": f"/results/fold_{fold}/validation/{name}.nii.gz",
                "reference_file": f"/raw/labelsTr/{name}.nii.gz",
                "metrics": {
                    key: {"Dice": value, "IoU": value / 2, "n_ref": 10, "n_pred": 9, "TP": 5, "FP": 4, "FN": 5, "TN": 1}
                    for key, value in (("1", float(score)), ("(1, 2)", float(score) + second))
                },
            }
            for name, score, own in zip(IDS, dice, FOLDS, strict=True)
            if own == fold or not folded
        ]
        content = {"foreground_mean": {}, "mean": {}, "metric_per_case": of_fold}
        place = folder / f"fold_{fold}" / "validation" if folded else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "summary.json").write_text(json.dumps(content))  # with NaN, as nnU-Net writes it
    return folder


def check_against_arrays(found: Comparison, groups: list[str]) -> None:
    expected = paired_grouped_test(B - A, groups)
    assert (found.difference, found.low, found.high, found.p) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p), abs=1e-12
    )
    assert (found.value_a, found.value_b, found.groups) == (pytest.approx(A.mean()), pytest.approx(B.mean()), 15)
    by_fold = [float(np.mean((B - A)[np.array(FOLDS) == fold])) for fold in range(5)]
    test = corrected_resampled_ttest(by_fold, [24] * 5, [6] * 5)
    assert found.fold_test is not None
    assert (found.fold_test.difference, found.fold_test.low, found.fold_test.p) == pytest.approx(
        (test.mean, test.low, test.p)
    )


def test_two_csv_tables_give_the_numbers_of_the_arrays(tmp_path: Path) -> None:
    a = csv(tmp_path / "a.csv", DSC=A, fold=FOLDS, group=GROUPS)
    b = csv(tmp_path / "b.csv", dice=B, fold=[f"fold-{fold}" for fold in FOLDS])
    (found,) = compare_scores([open_scores(a), open_scores(b)])
    check_against_arrays(found, GROUPS)
    assert (found.name_a, found.name_b, found.title) == ("a.csv", "b.csv", "mean Dice")
    assert any("every case that the fold did not test" in caution for caution in found.cautions)
    # The same from memory.
    tables = [
        scores_of({"id": IDS, "dice": values, "fold": FOLDS, "group": GROUPS}, name)
        for name, values in (("x", A), ("y", B))
    ]
    (again,) = compare_scores(tables)
    assert (again.difference, again.p, again.fold_test) == (found.difference, found.p, found.fold_test)


def test_two_result_folders_of_nnunet_give_the_numbers_of_the_arrays(tmp_path: Path) -> None:
    groups = csv(tmp_path / "groups.csv", group=GROUPS)
    a, b = nnunet(tmp_path / "a", A, -0.1), nnunet(tmp_path / "b", B - 0.3, 0.2)
    opened = [open_scores(path, groups=groups) for path in (a, b)]
    (found,) = compare_scores(opened, metric="dice:whole")
    check_against_arrays(replace_values(found, 0.1), GROUPS)
    assert found.title == "mean Dice of whole"
    (mean,) = compare_scores(opened)
    assert mean.difference == pytest.approx(np.mean(B - A) - 0.15)
    split = [{"train": [name for name in IDS if name not in test], "val": test} for test in folds_by_name()]
    write_json(tmp_path / "splits_final.json", split)
    single = [nnunet(tmp_path / f"{name}-single", values, folded=False) for name, values in (("a", A), ("b", B))]
    given = read_split([tmp_path / "splits_final.json"])
    (found,) = compare_scores([open_scores(path, groups=groups, folds=given) for path in single])
    check_against_arrays(found, GROUPS)
    assert found.cautions == ()
    assert open_scores(a / "fold_1").folds == ()


def folds_by_name() -> list[list[str]]:
    return [[name for name, own in zip(IDS, FOLDS, strict=True) if own == fold] for fold in range(5)]


def replace_values(found: Comparison, shift: float) -> Comparison:
    from dataclasses import replace

    return replace(found, value_a=found.value_a + shift, value_b=found.value_b + shift)


def test_a_label_that_neither_map_has_is_left_out_of_the_mean_and_said(tmp_path: Path) -> None:
    dice = A.copy()
    dice[4] = math.nan
    found = open_scores(nnunet(tmp_path / "a", dice))
    row = found.rows[0, IDS[4]]
    assert math.isnan(row["dice"]) and row["empty_policy"] == "nan"
    (compared,) = compare_scores([found, scores_of({"id": IDS, "dice": B, "group": GROUPS})])
    assert (compared.cases, compared.left_out) == (29, 1)
    assert any("How table scored two empty masks is not known; in a they are left out" in c for c in compared.cautions)


def test_evaluated_folders_are_compared_and_edited_ones_refused(tmp_path: Path) -> None:
    for name, values in (("a", A), ("b", B)):
        table = csv(tmp_path / name / "scores.csv", group=GROUPS, empty_policy=["one"] * 30, dice=values)
        write_json(tmp_path / name / "metrics.json", {"source": {"file": "scores.csv", "sha256": sha256(table)}})
    (found,) = compare_scores([open_scores(tmp_path / "a"), open_scores(tmp_path / "b")])
    expected = paired_grouped_test(B - A, GROUPS)
    assert (found.difference, found.p) == pytest.approx((expected.difference, expected.p))
    assert found.fold_test is None
    assert any("the folds of" in caution and "are not known" in caution for caution in found.cautions)
    csv(tmp_path / "b" / "scores.csv", group=GROUPS, empty_policy=["one"] * 30, dice=A)
    with pytest.raises(DataError, match="was changed after it was written"):
        open_scores(tmp_path / "b")


def test_scores_of_classes_need_no_decision_for_auc(tmp_path: Path) -> None:
    label = [int(name[1:3]) % 2 for name in IDS]
    scores = [np.clip(0.5 + 0.2 * (np.array(label) - 0.5) + 0.2 * DRAW.normal(size=30), 0, 1) for _ in range(2)]
    tables = [scores_of({"id": IDS, "label": label, "score": score, "group": IDS}) for score in scores]
    (found,) = compare_scores(tables)
    expected = delong_test(label, *scores)
    assert found.test == "delong"
    assert (found.p, found.difference) == pytest.approx((expected.p, expected.difference))
    with pytest.raises(DataError, match="no column 'prediction'"):
        compare_scores(tables, metric="sensitivity")


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    plain = [scores_of({"id": IDS, "dice": values, "seconds": values}) for values in (A, B)]
    with pytest.raises(ConfigError, match=r"do not say whose 30 of 30 cases are.*--groups TABLE.*--ungrouped each"):
        compare_scores(plain)
    (found,) = compare_scores(plain, ungrouped="each")
    assert found.groups == 30
    with pytest.raises(ConfigError, match="--higher-is-better or --lower-is-better"):
        compare_scores(plain, metric="seconds", ungrouped="each")
    (lower,) = compare_scores(plain, metric="seconds", direction="lower", ungrouped="each")
    assert (lower.lower_is_better, lower.difference) == (True, found.difference)
    with pytest.raises(ConfigError, match="of Dice, higher is better"):
        compare_scores(plain, direction="lower", ungrouped="each")
    with pytest.raises(ConfigError, match="Did you mean 'seconds'"):
        compare_scores(plain, metric="second", direction="lower", ungrouped="each")
    with pytest.raises(ConfigError, match="Say what to compare by with --metric"):
        compare_scores([scores_of({"id": IDS, "x": A, "y": B, "group": IDS})] * 2)


def test_folds_and_groups_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    a = scores_of({"id": IDS, "dice": A, "fold": FOLDS, "group": GROUPS})
    moved = scores_of({"id": IDS, "dice": B, "fold": [*FOLDS[1:], 4], "group": GROUPS})
    with pytest.raises(ConfigError, match="different folds"):
        compare_scores([a, moved])
    (found,) = compare_scores([a, moved], shared_only=True)
    assert found.fold_test is None
    with pytest.raises(ConfigError, match=r"in another group \(p00_0, p00_1"):
        compare_scores([a, scores_of({"id": IDS, "dice": B, "fold": FOLDS, "group": ["p14", *GROUPS[1:]]})])
    parted = [scores_of({"id": IDS, "dice": x, "fold": [i % 5 for i in range(30)], "group": GROUPS}) for x in (A, B)]
    (found,) = compare_scores(parted)
    assert any("15 groups with cases in several folds" in caution for caution in found.cautions)


def test_tables_that_cannot_be_read_name_the_file_and_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'p00_0' twice"):
        scores_of({"id": [IDS[0], IDS[0]], "dice": [1, 2]}, "t")
    with pytest.raises(DataError, match=r"'Dice' and 'DSC' mean the same"):
        scores_of({"id": ["a"], "Dice": [1], "DSC": [1]})
    with pytest.raises(DataError, match="have no fold, such as 'b'"):
        scores_of({"id": ["a", "b"], "dice": [1, 1], "fold": ["0", ""]})
    with pytest.raises(DataError, match="no column 'id'"):
        scores_of({"case": ["a"], "dice": [1]}, "t")
    (tmp_path / "fold_all" / "validation").mkdir(parents=True)
    (tmp_path / "fold_all" / "validation" / "summary.json").write_text('{"metric_per_case": []}')
    with pytest.raises(DataError, match="validates on the same cases"):
        open_scores(tmp_path)
    broken = tmp_path / "summary.json"
    broken.write_text('{"metric_per_case": [{"metrics": {"1": {"Dice": "good"}}}]}')
    with pytest.raises(DataError, match="is damaged"):
        open_scores(broken)
    broken.write_text('{"results": {"all": []}}')
    with pytest.raises(DataError, match=r"is of nnU-Net version 1; .* `medformer volume evaluate`"):
        open_scores(broken)
    cases = [{"metrics": {key: {"Dice": 1, "IoU": 1}}, "prediction_file": f"{key}.nii.gz"} for key in "12"]
    write_json(broken, {"metric_per_case": cases})
    with pytest.raises(DataError, match="'1' has label 1, '2' label 2; expected the same labels"):
        open_scores(broken)


def test_a_run_and_a_table_with_the_folds_of_its_plan_are_tested_over_folds(tmp_path: Path) -> None:
    cases = tuple(PlanCase(name, group) for name, group in zip(IDS, GROUPS, strict=True))
    others = [[name for name in IDS if name not in test] for test in folds_by_name()]
    folds = tuple(
        Fold(index, tuple(train[4:]), tuple(train[:4]), tuple(test))
        for index, (train, test) in enumerate(zip(others, folds_by_name(), strict=True))
    )
    run = RunDirectory(tmp_path / "run")
    write_json(run.run_json, {"format": "medformer-run/1", "task": "volume"})
    write_plan(run.splits_json, Plan("k-fold", 0, cases, folds))
    csv(run.oof_csv, fold=FOLDS, group=GROUPS, dice=A)
    table = csv(tmp_path / "b.csv", dice=B)
    (unknown,) = compare_scores([open_scores(run.path), open_scores(table)])
    assert unknown.fold_test is None and unknown.groups == 15
    split = read_split([run.splits_json])
    (found,) = compare_scores([open_scores(run.path), open_scores(table, folds=split)])
    by_fold = [float(np.mean((B - A)[np.array(FOLDS) == fold])) for fold in range(5)]
    expected = corrected_resampled_ttest(by_fold, [20] * 5, [6] * 5)
    assert found.fold_test is not None
    assert (found.fold_test.difference, found.fold_test.p) == pytest.approx((expected.mean, expected.p))


def test_folds_of_other_repeats_are_not_taken_for_those_of_the_scores(tmp_path: Path) -> None:
    repeats = [[name, repeat, fold] for repeat in (1, 2) for name, fold in zip(IDS, FOLDS, strict=True)]
    write_csv(
        tmp_path / "split.csv",
        [{"id": n, "repeat": r, "fold": (f + (r == 2)) % 5 if n != IDS[0] else f} for n, r, f in repeats],
        ["id", "repeat", "fold"],
    )
    split = read_split([tmp_path / "split.csv"])
    with pytest.raises(DataError, match=r"has the folds of 2 repeats, and .*does not say which"):
        open_scores(csv(tmp_path / "a.csv", dice=A, group=GROUPS), folds=split)
    found = open_scores(csv(tmp_path / "a.csv", dice=A, group=GROUPS, repeat=[1] * 30), folds=split)
    assert {fold.repeat for fold in found.folds} == {1}
    # The second repeat puts the first case beside others.
    first = next(fold for fold in found.folds if IDS[0] in fold.test)
    assert set(first.test) == {name for name, fold in zip(IDS, FOLDS, strict=True) if fold == 0}


def test_groups_and_folds_that_no_table_needs_are_refused(tmp_path: Path) -> None:
    groups = csv(tmp_path / "groups.csv", group=["one"] * 30)
    own = [csv(tmp_path / f"{name}.csv", dice=values, group=GROUPS) for name, values in (("a", A), ("b", B))]
    with pytest.raises(ConfigError, match=r"groups\.csv would not be used, because every table says itself"):
        open_tables(own, groups=groups)
    assert len(open_tables([own[0], csv(tmp_path / "c.csv", dice=B)], groups=groups)) == 2


def test_numbers_that_have_no_mean_or_another_unit_are_refused() -> None:
    a = scores_of({"id": IDS, "dice": A, "hd95_mm": A, "group": IDS}, "a")
    with pytest.raises(DataError, match=r"b seems to state Dice in percent .*Divide the column `dice` of the first by"):
        compare_scores([a, scores_of({"id": IDS, "dice": 100 * B, "group": IDS}, "b")])
    both = [scores_of({"id": IDS, "dice": 100 * x, "group": IDS}) for x in (A, B)]
    assert compare_scores(both)[0].value_b == pytest.approx(100 * B.mean())
    endless = scores_of({"id": IDS, "hd95_mm": [math.inf, *B[1:]], "group": IDS}, "b")
    with pytest.raises(DataError, match="b: column 'hd95_mm' is infinite in 1 case, such as 'p00_0'"):
        compare_scores([a, endless], metric="hd95_mm")
    missing = scores_of({"id": IDS, "dice": [*B[:-1], -1], "gain": -B, "group": IDS}, "b")
    with pytest.raises(DataError, match=rf"b: Dice is -1 in case '{IDS[-1]}' \(1 such case\); .*leave the cell empty"):
        compare_scores([a, missing])
    with pytest.raises(DataError, match=r"b: Dice is 1\.5 in case .*expected 0 to 1\."):
        compare_scores([a, scores_of({"id": IDS, "dice": [1.5, *B[1:]], "group": IDS}, "b")])
    assert compare_scores([missing, missing], metric="gain", direction="higher")[0].value_b == pytest.approx(-B.mean())
