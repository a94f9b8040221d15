from __future__ import annotations

import math
from pathlib import Path

import pytest

from medformer.evaluation.metrics import CLASSES, LABEL_MAPS, MASKS, table_of, validation_metric, validation_metric_of
from medformer.evaluation.number_format import PLAIN, PRINTED

TABLES = {"mask": MASKS, "label map": LABEL_MAPS, "class": CLASSES}


@pytest.mark.parametrize("scored", TABLES)
def test_every_row_says_what_a_reader_needs(scored: str) -> None:
    for name, metric in TABLES[scored].items():
        assert (metric.name, metric.scored) == (name, scored)
        assert metric.label and metric.definition and not metric.definition.endswith(".")
        assert metric.title[0].isupper() and metric.title[1:] == metric.label[1:]
        assert (metric.direction == "lower") == ("lower is better" in metric.definition)
        assert (metric.direction == "target") == (metric.target is not None)
        assert metric.unit in ("", "px", "mm", "ml") and (not metric.unit or f"({metric.unit})" in metric.label)
    assert len({metric.label for metric in TABLES[scored].values()}) == len(TABLES[scored])


@pytest.mark.parametrize("scored", TABLES)
def test_the_documentation_names_every_metric(scored: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    assert [name for name in TABLES[scored] if f"`{name}`" not in text] == []


def test_one_name_of_two_kinds_has_one_direction() -> None:
    assert set(LABEL_MAPS) < set(MASKS)
    for name in set(MASKS) & set(LABEL_MAPS) | set(MASKS) & set(CLASSES):
        assert len({table[name].direction for table in TABLES.values() if name in table}) == 1


def test_a_summary_tells_which_table_it_follows() -> None:
    assert table_of({"kind": "classification"})["sensitivity"].label == "sensitivity"
    assert table_of({"kind": "segmentation"})["sensitivity"].label == "pixel sensitivity"
    assert table_of({"kind": "segmentation", "by_label": {"liver": {}}})["sensitivity"].label == "voxel sensitivity"


def test_a_validation_metric_knows_which_way_is_better() -> None:
    dice, loss = validation_metric("dice"), validation_metric("loss")
    assert dice.better(0.6, 0.5) and not dice.better(0.4, 0.5) and dice.best([0.1, 0.7, 0.3]) == 0.7
    assert loss.better(0.4, 0.5) and not loss.better(0.6, 0.5) and loss.best([0.4, 0.2, 0.3]) == 0.2
    for name in ("dice", "auc", "accuracy", "balanced_accuracy", "loss"):
        metric = validation_metric(name)
        assert metric.better(0.5, None) and not metric.better(0.5, 0.5), "an equal score keeps the earlier weights"


def test_a_curve_says_by_its_columns_what_was_measured() -> None:
    assert validation_metric_of(["epoch", "train_loss", "validation_auc", "best"]) is validation_metric("auc")
    assert validation_metric_of(["epoch", "train_loss"]) is None
    assert validation_metric_of(["validation_hd95_mm"]) is MASKS["hd95_mm"]
    unknown = validation_metric_of(["validation_my_score"])
    assert unknown is not None
    assert (unknown.validation_column, unknown.label, unknown.direction) == (
        "validation_my_score",
        "my score",
        "higher",
    )


def test_an_unknown_validation_metric_is_named() -> None:
    with pytest.raises(ValueError, match="'iou', expected one of dice, auc"):
        validation_metric("iou")


def test_numbers_are_spelled_in_one_way() -> None:
    assert [PLAIN.number(value) for value in (0.5, -0.25, 7, None, True, math.nan, "x")] == [
        "0.500",
        "-0.250",
        "7",
        *["-"] * 4,
    ]
    assert [PRINTED.signed(value, 2) for value in (0.5, -0.25, 0.001, -0.001, 3, math.inf)] == [
        "+0.50",
        "−0.25",
        "0.00",
        "0.00",
        "+3",
        "–",
    ]
    assert PRINTED.interval(-0.1, 0.2, 1) == "−0.1 to 0.2"
    assert PLAIN.interval(-0.1, 0.2, signed=True) == "-0.100 to +0.200"
    assert PLAIN.interval(math.nan, math.nan) == "-"
