from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.errors import DataError
from medformer.evaluation.masks.saliency import max_and_mean_e, score_map
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.metrics import MASKS, in_summary
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, write_csv, write_json


def cases(n: int = 12, size: int = 24) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:size, :size]
    pairs = []
    for index in range(n):
        distance = np.hypot(y - rng.uniform(6, 18), x - rng.uniform(6, 18))
        truth = distance < index  # the first is empty, the last are large
        pairs.append((np.clip(truth * 0.4 + rng.random(truth.shape) * 0.6, 0, 1).astype(np.float32), truth))
    return pairs


def table(**options: Any) -> list[dict[str, Any]]:
    return [
        {
            **case_row(f"c{index}", *pair, **options),
            "fold": index % 3,
            "site": "ab"[index % 2],
            "group": f"patient {index // 2}",
        }
        for index, pair in enumerate(cases())
    ]


def test_pooled_numbers_are_those_of_numpy() -> None:
    rows = table()
    summary = summarize(rows)
    values = np.array([row["dice"] for row in rows])
    dice = summary["pooled"]["metrics"]["dice"]
    assert summary["n"] == summary["pooled"]["n"] == dice["n"] == 12
    assert summary["pooled"]["groups"] == 6
    assert dice["mean"] == pytest.approx(values.mean())
    assert dice["sd"] == pytest.approx(values.std(ddof=1))
    assert [dice["q1"], dice["median"], dice["q3"]] == pytest.approx(np.percentile(values, [25, 50, 75]))
    assert 0 <= dice["low"] < dice["mean"] < dice["high"] <= 1
    assert set(summary["pooled"]["metrics"]) == set(in_summary(MASKS)) - {"hd95_mm", "nsd_mm"}
    assert summary["pooled"]["metrics"]["hd95_px"]["mean"] == pytest.approx(np.mean([row["hd95_px"] for row in rows]))


def test_splits_partition_the_rows() -> None:
    rows = table()
    summary = summarize(rows)
    assert list(summary["by_fold"]) == ["0", "1", "2"]
    assert list(summary["by_site"]) == ["a", "b"]
    assert list(summary["by_size"]) == ["none", "small", "medium", "large"]
    for split in ("by_fold", "by_site", "by_size"):
        assert sum(part["n"] for part in summary[split].values()) == 12
    of_a = [row["iou"] for row in rows if row["site"] == "a"]
    assert summary["by_site"]["a"]["metrics"]["iou"]["mean"] == pytest.approx(np.mean(of_a))


def test_folds_are_ordered_by_number() -> None:
    rows = [{**row, "fold": index} for index, row in enumerate(table())]
    assert list(summarize(rows, Bootstrap(resamples=10))["by_fold"]) == [str(index) for index in range(12)]


def test_max_e_comes_from_the_curve_averaged_over_images() -> None:
    summary = summarize(table())
    expected = max_and_mean_e(score_map(*pair).e_curve for pair in cases())
    assert (summary["pooled"]["max_e"], summary["pooled"]["mean_e"]) == pytest.approx(expected, abs=1e-5)
    of_b, _ = max_and_mean_e(score_map(*pair).e_curve for pair in cases()[1::2])
    assert summary["by_site"]["b"]["max_e"] == pytest.approx(of_b, abs=1e-5) != pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize("policy", ["one", "nan", "zero"])
def test_rows_from_the_csv_file_give_the_identical_summary(tmp_path: Path, policy: str) -> None:
    rows = table(empty=policy)
    write_csv(tmp_path / "oof.csv", rows, list(rows[0]))
    write_json(tmp_path / "memory.json", summarize(rows))
    write_json(tmp_path / "file.json", summarize(read_csv(tmp_path / "oof.csv")))
    assert (tmp_path / "memory.json").read_bytes() == (tmp_path / "file.json").read_bytes()


def test_the_order_of_rows_does_not_change_means() -> None:
    rows = table()
    forward, backward = summarize(rows), summarize(rows[::-1])
    assert forward["pooled"]["metrics"]["iou"]["mean"] == pytest.approx(backward["pooled"]["metrics"]["iou"]["mean"])


def test_undefined_values_are_left_out_and_counted() -> None:
    summary = summarize(table(empty="nan"))
    assert summary["pooled"]["n"] == 12
    assert summary["pooled"]["metrics"]["sensitivity"]["n"] == 11
    none = summary["by_size"]["none"]["metrics"]["sensitivity"]
    assert none["n"] == 0 and math.isnan(none["mean"])


def test_the_summary_says_how_it_was_made() -> None:
    summary = summarize(table(threshold=0.4), Bootstrap(level=0.9, resamples=50, seed=3))
    assert summary["thresholds"] == [0.4] and summary["empty_policy"] == "one"
    assert summary["definitions"]["interval"] == (
        "90% bootstrap over groups (expanded percentiles), 50 resamples, seed 3"
    )
    assert summary["format"] == "medformer-metrics/1" and summary["kind"] == "segmentation"
    assert summary["nsd_tolerance"] == {"px": 3.0}
    assert summary["definitions"]["metrics"]["nsd_px"].endswith("tolerance of the other outline, 3 px")
    assert summary["definitions"]["surface_empty_policy"].startswith("both masks empty: HD95 0")
    json.dumps(summary)


def test_rows_without_fold_site_or_group_are_enough() -> None:
    summary = summarize([case_row(str(index), *pair) for index, pair in enumerate(cases())])
    assert "by_fold" not in summary and "by_site" not in summary
    assert summary["pooled"]["groups"] == 12


def test_one_case_has_a_mean_and_no_spread() -> None:
    dice = summarize(table()[5:6])["pooled"]["metrics"]["dice"]
    assert dice["mean"] == dice["median"] and math.isnan(dice["sd"]) and math.isnan(dice["low"])


def test_tables_that_cannot_be_summarized_are_named() -> None:
    with pytest.raises(DataError, match="no scored cases"):
        summarize([])
    rows = table()
    with pytest.raises(DataError, match=r"different empty-mask policies \(one, zero\)"):
        summarize([rows[0], {**rows[1], "empty_policy": "zero"}])
    with pytest.raises(DataError, match=r"different tolerances of the NSD \(3.0, 5.0\)"):
        summarize([rows[0], {**rows[1], "nsd_tolerance_px": 5.0}])
    with pytest.raises(DataError, match="c1: column 'dice' holds 'high', expected a number"):
        summarize([rows[0], {**rows[1], "dice": "high"}])
    with pytest.raises(DataError, match="c0 has no column 'iou'"):
        summarize([{key: value for key, value in rows[0].items() if key != "iou"}])


def test_lesions_are_summed_and_false_alarms_counted_in_every_part() -> None:
    rows = table()
    summary = summarize(rows)
    for part, chosen in ((summary["pooled"], rows), (summary["by_site"]["b"], rows[1::2])):
        lesions = part["lesions"]
        for name, column in (("true", "lesions_true"), ("predicted", "lesions_pred"), ("hit", "lesions_hit")):
            assert lesions[name] == sum(row[column] for row in chosen)
        assert lesions["f1"] == pytest.approx(2 * lesions["hit"] / (lesions["true"] + lesions["predicted"]))
        assert lesions["low"] <= lesions["f1"] <= lesions["high"]
    normal = [row for row in rows if row["truth_px"] == 0]
    negatives = summary["pooled"]["negatives"]
    assert negatives["n"] == len(normal) == negatives["images_with_false_positive"] == 1
    assert negatives["fp_px"]["mean"] == normal[0]["pred_px"] > 0
    assert summary["by_site"]["b"]["negatives"]["n"] == 0
    assert summary["pooled"]["missed"] == 0
    blind = [{**row, "pred_px": 0} for row in rows]
    assert summarize(blind)["pooled"]["missed"] == 11


def test_repeats_are_split_and_their_groups_drawn_together() -> None:
    once = [{**row, "repeat": 0} for row in table()]
    twice = once + [{**row, "repeat": 1} for row in once]
    single, double = summarize(once), summarize(twice)
    assert "by_repeat" not in single and list(double["by_repeat"]) == ["0", "1"]
    assert repr(double["by_repeat"]["1"]) == repr(single["pooled"])
    assert double["n"] == 24 and double["pooled"]["groups"] == 6
    # The same images twice are no more evidence: neither the mean nor its interval moves.
    for name in ("dice", "hd95_px"):
        for key in ("mean", "low", "high"):
            assert double["pooled"]["metrics"][name][key] == pytest.approx(single["pooled"]["metrics"][name][key])
    assert double["pooled"]["lesions"]["low"] == pytest.approx(single["pooled"]["lesions"]["low"])


def test_cases_without_a_group_are_resampled_with_all_their_repeats() -> None:
    alone = [{key: value for key, value in row.items() if key != "group"} for row in table()]
    twice = [{**row, "repeat": repeat} for repeat in (0, 1) for row in alone]
    assert summarize(twice)["pooled"]["groups"] == 12


def test_sex_and_age_split_the_numbers_with_those_who_have_none() -> None:
    rows = [
        {**row, "sex": "FM"[k % 2] if k else "", "age": 20 + 5 * k if k < 9 else ""} for k, row in enumerate(table())
    ]
    summary = summarize(rows)
    assert {name: part["n"] for name, part in summary["by_sex"].items()} == {"female": 5, "male": 6, "unknown": 1}
    assert list(summary["by_age"]) == ["18-29", "30-39", "40-49", "50-59", "60-69", "unknown"]
    women = [row["dice"] for row in rows if row["sex"] == "F"]
    assert summary["by_sex"]["female"]["metrics"]["dice"]["mean"] == pytest.approx(np.mean(women))
    assert "sex" in summary["definitions"] and "sex" not in summarize(table())["definitions"]


OLD = (
    *(
        "id",
        "threshold",
        "empty_policy",
        "pixels",
        "truth_px",
        "pred_px",
        "overlap_px",
        "truth_fraction",
        "size",
        "dice",
    ),
    *("iou", "sensitivity", "precision", "mean_dice_256", "mean_iou_256", "weighted_f", "s_measure", "mae", "e_curve"),
)


def test_a_table_from_before_outlines_and_lesions_gives_what_it_has() -> None:
    summary = summarize([{name: row[name] for name in OLD} for row in table()])
    assert "hd95_px" not in summary["pooled"]["metrics"] and "nsd_tolerance" not in summary
    assert "lesions" not in summary["pooled"] and "negatives" not in summary["pooled"]
    assert summary["pooled"]["missed"] == 0 and "surface_empty_policy" not in summary["definitions"]
    least = summarize(
        [{name: row[name] for name in ("id", "threshold", "empty_policy", "dice", "iou")} for row in table()]
    )
    assert set(least["pooled"]) == {"n", "groups", "metrics"} and set(least["pooled"]["metrics"]) == {"dice", "iou"}


def test_volumes_are_summarized_without_what_is_for_images() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.random((6, 8, 8)) > 0.5 if index else np.zeros((6, 8, 8), bool) for index in range(5)]
    rows = [case_row(f"v{k}", rng.random((6, 8, 8)), truth, spacing=(5, 1, 1)) for k, truth in enumerate(truths)]
    summary = summarize(rows)
    assert {"hd95_mm", "nsd_mm"} < set(summary["pooled"]["metrics"]) and "hd95_px" not in summary["pooled"]["metrics"]
    assert summary["nsd_tolerance"] == {"mm": 2.0} and "max_e" not in summary["pooled"]
    assert summary["pooled"]["negatives"]["fp_ml"]["n"] == 1 and "by_size" not in summary


def test_a_thousand_rows_are_summarized_in_seconds() -> None:
    rng = np.random.default_rng(1)
    pattern = table()[3]
    rows = [
        {
            **pattern,
            **{name: rng.random() for name in in_summary(MASKS) if name in pattern},
            "id": f"c{k}",
            "group": f"g{k // 2}",
            "fold": k % 5,
            "site": "abcd"[k % 4],
            "sex": "mf"[k % 2],
            "age": int(rng.integers(5, 95)),
        }
        for k in range(1000)
    ]
    start = time.process_time()
    summarize(rows)
    assert time.process_time() - start < 5
