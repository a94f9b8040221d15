from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from medformer.crossval.run.collect import read_oof
from medformer.errors import DataError
from medformer.evaluation.metrics import CLASSES
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.summary import summarize
from medformer.files import write_csv, write_json

FEW = Bootstrap(resamples=200)


def table(n: int = 120, repeats: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    for repeat in range(repeats):
        for index in range(n):
            label = index % 2
            score = float(np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1))
            threshold = 0.45 + 0.1 * (index % 3 == 0)
            rows.append(
                {
                    "id": f"s{index}",
                    "fold": 3 * repeat + index % 3,
                    "repeat": repeat,
                    "group": f"p{index // 2}",
                    "site": f"site{index % 2 if index < 100 else 2}",
                    "age": 8 + index // 2,
                    "sex": "MF"[index % 4 // 2],
                    "label": label,
                    "score": score,
                    "threshold": threshold,
                    "prediction": int(score >= threshold),
                }
            )
    return rows


def test_pooled_numbers_are_those_of_scikit_learn_each_with_an_interval() -> None:
    rows = table()
    summary = summarize(rows)
    assert (summary["kind"], summary["n"]) == ("classification", 120)
    assert summary["thresholds"] == [0.45, pytest.approx(0.55)]
    pooled = summary["pooled"]
    assert (pooled["n"], pooled["groups"], pooled["positives"]) == (120, 60, 60)
    assert list(pooled["metrics"]) == list(CLASSES) == list(summary["definitions"]["metrics"])
    labels, scores = [row["label"] for row in rows], [row["score"] for row in rows]
    assert pooled["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert pooled["metrics"]["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores))
    for part in pooled["metrics"].values():
        assert part["low"] < part["value"] < part["high"]


def test_parts_have_their_own_numbers_and_one_class_no_auc() -> None:
    rows = table()
    summary = summarize(rows, FEW)
    assert list(summary["by_fold"]) == ["0", "1", "2"] and "by_repeat" not in summary and "by_size" not in summary
    assert next(iter(summary["by_age"])) == "under 12" and list(summary["by_sex"]) == ["female", "male"]
    women = [row for row in rows if row["sex"] == "F"]
    expected = roc_auc_score([row["label"] for row in women], [row["score"] for row in women])
    assert summary["by_sex"]["female"]["metrics"]["auc"]["value"] == pytest.approx(expected)
    # Site 0 has negatives only.
    one_class = summary["by_site"]["site0"]
    assert one_class["positives"] == 0 and np.isnan(one_class["metrics"]["auc"]["value"])
    assert one_class["metrics"]["specificity"]["value"] > 0 and np.isnan(one_class["metrics"]["auc"]["low"])


def test_repeats_are_pooled_and_drawn_with_their_group() -> None:
    summary = summarize(table(repeats=3), FEW)
    assert list(summary["by_repeat"]) == ["0", "1", "2"] and len(summary["by_fold"]) == 9
    assert summary["pooled"]["n"] == 360 and summary["pooled"]["groups"] == 60


def test_a_file_gives_the_identical_numbers(tmp_path: Path) -> None:
    rows = table()
    for row in rows[::7]:
        row["age"] = row["sex"] = ""
    write_csv(tmp_path / "oof.csv", rows, list(rows[0]))
    write_json(tmp_path / "memory.json", summarize(rows, FEW))
    write_json(tmp_path / "file.json", summarize(read_oof(tmp_path / "oof.csv"), FEW))
    assert (tmp_path / "memory.json").read_bytes() == (tmp_path / "file.json").read_bytes()


def test_two_scores_in_a_part_are_no_reason_to_refuse_the_table() -> None:
    # A stump has two scores in each fold, and its decisions repeat them: only the whole table shows probabilities.
    rows = table()
    for row in rows:
        row["score"] = [0.2, 0.8][row["score"] > 0.5] + 0.01 * row["fold"]
        row["prediction"] = int(row["score"] > 0.5)
    summary = summarize(rows, FEW)
    assert summary["by_fold"]["1"]["metrics"]["auc"]["value"] > 0.5


def test_what_is_no_classification_is_refused_by_case() -> None:
    rows = table()
    with pytest.raises(DataError, match=r"s3: score is 1\.7, expected a probability"):
        summarize([*rows[:3], {**rows[3], "score": 1.7}])
    with pytest.raises(DataError, match="s0: label is 2"):
        summarize([{**rows[0], "label": 2}, *rows[1:]])
    with pytest.raises(DataError, match="s0: column 'label' holds 'sick', expected a number"):
        summarize([{**rows[0], "label": "sick"}, *rows[1:]])
    with pytest.raises(DataError, match="s0 has no column 'prediction'"):
        summarize([{key: value for key, value in row.items() if key != "prediction"} for row in rows])
    with pytest.raises(DataError, match="these are decisions"):
        summarize([{**row, "score": float(row["prediction"])} for row in rows])
