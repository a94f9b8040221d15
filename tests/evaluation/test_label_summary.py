from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.crossval.run.collect import read_oof
from medformer.errors import DataError
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.metrics import LABEL_MAPS
from medformer.evaluation.summary import summarize
from medformer.files import write_csv

LABELS = {1: "Anterior", 4: "Posterior"}


def table(empty: Any = "one") -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(10):
        truth = np.zeros((9, 10, 11), np.uint8)
        truth[2:6, 2:8, 2:5] = 1
        if index:
            truth[2 : 2 + index // 2, 2:8, 5:9] = 4
        prediction = np.roll(truth, int(rng.integers(-1, 2)), axis=1)
        if index == 3:
            prediction[prediction == 4] = 0
        if index == 0:
            prediction[8, 8, 8] = 4
        row = volume_row(f"v{index}", prediction, truth, labels=LABELS, spacing=(1, 1, 2), empty=empty)
        rows.append({**row, "fold": index % 2, "group": f"p{index // 2}", "site": "ab"[index % 2]})
    return rows


def test_each_label_has_its_numbers() -> None:
    rows = table()
    summary = summarize(rows)
    assert list(summary["by_label"]) == ["Anterior", "Posterior"]
    for name, block in summary["by_label"].items():
        assert block["n"] == 10
        for metric in LABEL_MAPS:
            values = [row[f"{metric}:{name}"] for row in rows]
            assert block["metrics"][metric]["mean"] == pytest.approx(np.nanmean(values)), (name, metric)
        pairs = [(row[f"pred_ml:{name}"], row[f"truth_ml:{name}"]) for row in rows]
        difference = [marked - true for marked, true in pairs if marked or true]
        assert block["volume"]["agreement"]["bias"]["value"] == pytest.approx(np.mean(difference))
    posterior = summary["by_label"]["Posterior"]
    # Case 1 has a label of no plane, case 0 none at all and a mark, case 3 a label that was not marked.
    assert (posterior["present"], posterior["missed"], posterior["false_alarms"]) == (8, 1, 1)
    assert posterior["volume"]["relative_error"]["n"] == 8 and posterior["volume"]["agreement"]["n"] == 9


def test_the_means_over_labels_are_the_numbers_of_the_run() -> None:
    summary = summarize(table())
    both = [block["metrics"]["dice"]["mean"] for block in summary["by_label"].values()]
    assert summary["pooled"]["metrics"]["dice"]["mean"] == pytest.approx(np.mean(both))
    assert summary["kind"] == "segmentation" and set(summary["pooled"]["metrics"]) == set(LABEL_MAPS)
    assert set(summary["by_fold"]) == {"0", "1"} and set(summary["by_site"]) == {"a", "b"}


def test_a_label_map_has_no_threshold_and_says_what_its_numbers_are() -> None:
    summary = summarize(table())
    assert "thresholds" not in summary and summary["nsd_tolerance"] == {"mm": 2.0}
    definitions = summary["definitions"]
    assert "voxels" in definitions["metrics"]["sensitivity"] and "threshold" not in json.dumps(definitions)
    assert definitions["metrics"]["nsd_mm"].endswith("2 mm")
    assert definitions["labels"].startswith("mean over the labels") and "1.96" in definitions["agreement"]
    assert "size" not in definitions and "by_label" not in summarize([{**row_without_labels()}])


def row_without_labels() -> dict[str, Any]:
    return {name: value for name, value in table()[0].items() if ":" not in name}


@pytest.mark.parametrize("empty", ["one", "nan"])
def test_a_table_read_back_from_a_file_gives_the_same(tmp_path: Path, empty: str) -> None:
    rows = table(empty)
    write_csv(tmp_path / "oof.csv", rows, list(rows[0]))
    dump = [json.dumps(summarize(read), sort_keys=True) for read in (rows, read_oof(tmp_path / "oof.csv"))]
    assert dump[0] == dump[1]


def test_a_row_that_lacks_a_label_is_named() -> None:
    rows = table()
    with pytest.raises(DataError, match="v4 has no column 'truth_ml:Posterior'"):
        summarize([{k: v for k, v in row.items() if row["id"] != "v4" or "Posterior" not in k} for row in rows])
