from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from medformer.reporting.report import render_section
from medformer.reporting.sections.training import learning


def facts(column: str, *scores: float, chosen: str = "the epoch") -> tuple[dict[str, Any], str]:
    """The facts of a fold with this learning curve, and the section that is made of them."""
    epochs = [float(number) for number in range(1, len(scores) + 1)]
    history = {
        "epoch": epochs,
        "train_loss": [1 / n for n in epochs],
        column: list(scores),
        "seconds": [60.0] * len(scores),
    }
    run: Any = SimpleNamespace(histories={0: history}, chosen=chosen, noun="subject")
    found = learning(run)
    return found, " ".join(render_section("learning", run, {"learning": found}).split())


def test_a_loss_is_best_where_it_is_lowest() -> None:
    found, section = facts("validation_loss", 0.7, 0.4, 0.5)
    assert (found["folds"][0]["best"], found["folds"][0]["best_epoch"]) == (0.4, 2)
    assert '<td class="n">0.400</td><td class="n">2</td>' in section and "Best inner-validation loss" in section
    assert "Loss on the inner validation part" in section
    assert "chooses the epoch; the test subjects are not used for that" in section


def test_an_area_is_best_where_it_is_highest() -> None:
    found, section = facts("validation_auc", 0.6, 0.4, 0.75)
    assert (found["folds"][0]["best"], found["folds"][0]["best_epoch"]) == (0.75, 3)
    assert '<td class="n">0.750</td><td class="n">3</td>' in section and "Best inner-validation AUC" in section
    assert "AUC on the inner validation part" in section


def test_a_training_without_validation_shows_its_loss_alone() -> None:
    found, section = facts("grad_norm", 1.0, 2.0, chosen="")
    assert (found["folds"][0]["best"], found["folds"][0]["best_epoch"]) == (None, None)
    assert '<td class="n">–</td><td class="n">–</td>' in section
    assert found["panels"] == ["Training loss"] and "inner validation part against the epoch" not in section
    assert "Nothing was chosen by these curves: the weights at the end" in section
