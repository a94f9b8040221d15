"""Learning curves: did training converge, and does one fold differ from the others?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medformer.evaluation.metrics import validation_metric_of
from medformer.reporting.blocks import Figure, Section, Table, number
from medformer.reporting.facts import Facts
from medformer.reporting.figures.charts import curves

LOSS = "train_loss"


def build(facts: Facts) -> Section | None:
    """Draw the loss and the inner-validation score per epoch for every fold."""
    panels: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {}
    present = dict.fromkeys(column for history in facts.histories.values() for column in history)
    measure = validation_metric_of(present)
    titles = {LOSS: "Training loss"}
    if measure:
        titles[measure.validation_column] = f"{measure.title} on the inner validation part"
    for column, title in titles.items():
        lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        for index, history in facts.histories.items():
            points = [
                (epoch, value)
                for epoch, value in zip(history.get("epoch", ()), history.get(column, ()), strict=False)
                if math.isfinite(value)
            ]
            if points:
                lines[f"fold {index}"] = ([epoch for epoch, _ in points], [value for _, value in points])
        if lines:
            panels[title] = lines
    if not panels:
        return None
    rows = []
    for index, history in facts.histories.items():
        scored = history.get(measure.validation_column, ()) if measure else ()
        scores = [value for value in scored if math.isfinite(value)]
        best = measure.best(scores) if measure and scores else None
        losses = [value for value in history.get(LOSS, ()) if math.isfinite(value)]
        rows.append(
            [
                str(index),
                str(max(len(scores), len(losses))),
                number(losses[-1] if losses else None),
                number(best),
                "–" if best is None else str(1 + scores.index(best)),
                f"{sum(value for value in history.get('seconds', ()) if math.isfinite(value)) / 60:.1f}",
            ]
        )
    header = [
        "Fold",
        "Epochs",
        "Last training loss",
        f"Best inner-validation {measure.label if measure else 'score'}",
        "At epoch",
        "Minutes",
    ]
    table = Table("Training per fold", header, rows)
    alt = (
        "Learning curves, one line per fold: " + " and ".join(panels) + " against the epoch. The table gives the ends."
    )
    fitted = facts.thresholded and facts.config.get("inference", {}).get("threshold") == "fit"
    chosen = "epoch and the threshold" if fitted else "epoch"
    caption = (
        f"The inner validation part, taken out of the fold's training data, chooses the {chosen}; the test "
        f"{facts.noun}s take no part in that."
    )
    figure = Figure(curves("learning", panels, xlabel="epoch"), alt, caption)
    return Section("learning", "Learning curves", [figure, table])
