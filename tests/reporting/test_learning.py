from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from medformer.reporting.blocks import Figure, Table
from medformer.reporting.sections.learning import build


def table(column: str, *scores: float) -> tuple[Table, Figure]:
    epochs = [float(number) for number in range(1, len(scores) + 1)]
    history = {
        "epoch": epochs,
        "train_loss": [1 / n for n in epochs],
        column: list(scores),
        "seconds": [60.0] * len(scores),
    }
    facts: Any = SimpleNamespace(histories={0: history}, thresholded=True, config={}, noun="subject")
    section = build(facts)
    assert section is not None
    found = {type(block): block for block in section.blocks}
    return found[Table], found[Figure]  # type: ignore[return-value]


def test_a_loss_is_best_where_it_is_lowest() -> None:
    found, figure = table("validation_loss", 0.7, 0.4, 0.5)
    assert found.rows[0][3:5] == ["0.400", "2"] and "Best inner-validation loss" in found.header
    assert "Loss on the inner validation part" in figure.alt


def test_an_area_is_best_where_it_is_highest() -> None:
    found, figure = table("validation_auc", 0.6, 0.4, 0.75)
    assert found.rows[0][3:5] == ["0.750", "3"] and "Best inner-validation AUC" in found.header
    assert "AUC on the inner validation part" in figure.alt


def test_a_training_without_validation_shows_its_loss_alone() -> None:
    found, figure = table("grad_norm", 1.0, 2.0)
    assert found.rows[0][3:5] == ["–", "–"] and "inner validation part" not in figure.alt
