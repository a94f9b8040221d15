from __future__ import annotations

import pytest

from medformer.evaluation.validation_measures import MEASURES, measured, require_measure


def test_a_measure_knows_which_way_is_better() -> None:
    dice, loss = MEASURES["dice"], MEASURES["loss"]
    assert dice.better(0.6, 0.5) and not dice.better(0.4, 0.5) and dice.best([0.1, 0.7, 0.3]) == 0.7
    assert loss.better(0.4, 0.5) and not loss.better(0.6, 0.5) and loss.best([0.4, 0.2, 0.3]) == 0.2
    for measure in MEASURES.values():
        assert measure.better(0.5, None) and not measure.better(0.5, 0.5), "an equal score keeps the earlier weights"


def test_a_curve_says_by_its_columns_what_was_measured() -> None:
    assert measured(["epoch", "train_loss", "validation_auc", "best"]) is MEASURES["auc"]
    assert measured(["epoch", "train_loss"]) is None
    unknown = measured(["validation_hd95_mm"])
    assert unknown is not None and (unknown.column, unknown.title, unknown.higher) == (
        "validation_hd95_mm",
        "hd95 mm",
        True,
    )


def test_an_unknown_measure_is_named() -> None:
    with pytest.raises(ValueError, match="'iou', expected one of dice, auc"):
        require_measure("iou")
