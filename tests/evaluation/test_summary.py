from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.errors import DataError
from medformer.evaluation.saliency import max_and_mean_e, score_map
from medformer.evaluation.segmentation import COLUMNS, METRICS, case_row
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
    assert set(summary["pooled"]["metrics"]) == set(METRICS)


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
    assert list(summarize(rows, resamples=10)["by_fold"]) == [str(index) for index in range(12)]


def test_max_e_comes_from_the_curve_averaged_over_images() -> None:
    summary = summarize(table())
    expected = max_and_mean_e(score_map(*pair).e_curve for pair in cases())
    assert (summary["pooled"]["max_e"], summary["pooled"]["mean_e"]) == pytest.approx(expected, abs=1e-5)
    of_b, _ = max_and_mean_e(score_map(*pair).e_curve for pair in cases()[1::2])
    assert summary["by_site"]["b"]["max_e"] == pytest.approx(of_b, abs=1e-5) != pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize("policy", ["one", "nan", "zero"])
def test_rows_from_the_csv_file_give_the_identical_summary(tmp_path: Path, policy: str) -> None:
    rows = table(empty=policy)
    write_csv(tmp_path / "oof.csv", rows, [*COLUMNS, "fold", "site", "group"])
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
    summary = summarize(table(threshold=0.4), level=0.9, resamples=50, seed=3)
    assert summary["thresholds"] == [0.4] and summary["empty_policy"] == "one"
    assert summary["definitions"]["interval"] == "90% percentile bootstrap over groups, 50 resamples, seed 3"
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
    with pytest.raises(DataError, match="c1: column 'dice' holds 'high', expected a number"):
        summarize([rows[0], {**rows[1], "dice": "high"}])
    with pytest.raises(DataError, match="c0 has no column 'iou'"):
        summarize([{key: value for key, value in rows[0].items() if key != "iou"}])
