"""Estimates with their intervals: forest plots of parts and of comparisons, and Bland-Altman plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medformer.crossval.compare.result import Comparison, Outcome
from medformer.evaluation.number_format import PRINTED
from medformer.reporting.figures.style import INK, MUTED, SERIES, drawing
from medformer.reporting.wording import shorten

_TESTS = {
    "bootstrap": "bootstrap over groups",
    "delong": "DeLong's test over cases",
    "folds": "t-test over folds",
}

# A difference below this is never enlarged to the width of the drawing.
_NARROWEST = 0.02

# How far below its comparison the test over folds is drawn.
_BELOW = 0.3

_COLUMNS = 3
_MANY_DOTS = 150

# Where the intervals of a Bland-Altman plot stand, in shares of the width: side by side, since few cases overlap them.
_PLACES = (0.985, 0.955, 0.985)


@dataclass(frozen=True)
class AgreementPanel:
    """The Bland-Altman plot of one label.

    Attributes:
        title: Its name.
        means: Mean of both volumes of each case.
        differences: Predicted minus reference volume of each case.
        bias: Mean difference.
        limits: Lower and upper limit of agreement; NaN draws none.
        spans: Intervals of the lower limit, the bias and the upper limit; NaN draws none.
    """

    title: str
    means: Sequence[float]
    differences: Sequence[float]
    bias: float
    limits: tuple[float, float]
    spans: Sequence[tuple[float, float]]


@drawing
def forest(figure: Figure, rows: Sequence[tuple[str, float, float, float]], *, xlabel: str, reference: float) -> None:
    """Draw one line per part: (label, mean, low, high). With a NaN interval, only the mean is drawn.

    Args:
        figure: Given by `drawing`.
        rows: Parts, top to bottom.
        xlabel: What is measured.
        reference: Drawn as a vertical line: the value of the whole.
    """
    figure.set_size_inches(7.2, 0.9 + 0.34 * len(rows))
    axes = figure.add_subplot()
    axes.axvline(reference, color=MUTED, linewidth=1.2, linestyle="--")
    for position, (_, mean, low, high) in enumerate(rows):
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [position, position], color=SERIES[0], linewidth=2, marker="|", markersize=11)
        axes.plot([mean], [position], color=SERIES[0], marker="o", markersize=6, clip_on=False)
    # A long name leaves room for the drawing; the table beside it has the whole name.
    axes.set_yticks(range(len(rows)), [shorten(label, 36) for label, *_ in rows])
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    # Zoom in, but never so far that small differences look large, nor beyond [0, 1].
    known = [value for _, *values in rows for value in values if np.isfinite(value)]
    low, high = min(known), max(known)
    axes.set_xlim(max(0.0, min(low - 0.04, high - 0.3)), min(1.0, max(high + 0.04, low + 0.3)) + 0.005)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


@drawing
def bland_altman(figure: Figure, panels: Sequence[AgreementPanel], *, unit: str = "ml") -> None:
    """Draw differences against means, a panel for each label, in rows of three.

    A solid line is the bias, dashed lines are the limits of agreement, each with its interval as a bar at the right
    end; the thin line is no difference.
    """
    across = min(_COLUMNS, len(panels))
    down = -(-len(panels) // _COLUMNS)
    # A single panel keeps the width of the page without growing as high.
    figure.set_size_inches({1: 5.2, 2: 3.6}.get(across, 2.5) * across, 2.9 * down)
    for position, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, position + 1)
        axes.axhline(0, color=MUTED, linewidth=0.9)
        size, alpha = (3.0, 0.5) if len(panel.means) > _MANY_DOTS else (4.5, 0.75)
        axes.plot(panel.means, panel.differences, "o", color=SERIES[0], markersize=size, alpha=alpha)
        axes.axhline(panel.bias, color=INK, linewidth=1.6)
        for limit in panel.limits:
            if np.isfinite(limit):
                axes.axhline(limit, color=INK, linewidth=1.4, linestyle="--")
        for place, span in zip(_PLACES, panel.spans, strict=True):
            if np.isfinite(span).all():
                at = axes.get_yaxis_transform()
                axes.plot([place, place], span, color=SERIES[1], linewidth=2, marker="_", transform=at)
        axes.set(title=shorten(panel.title, 24))
        axes.margins(x=0.12, y=0.08)
        if position % across == 0:
            axes.set_ylabel(f"predicted − reference ({unit})")
        axes.set_xlabel(f"mean of both ({unit})")


@drawing
def comparison_forest(figure: Figure, comparisons: Sequence[Comparison]) -> None:
    """Draw a line per comparison: the difference with its interval, below it that over folds, and each fold as a dot.

    All comparisons are of the same metric, and share the first run or the second.
    """
    first = comparisons[0]
    same_a = len({comparison.run_a for comparison in comparisons}) == 1
    folds = any(comparison.fold_test for comparison in comparisons)
    rows = len(comparisons)
    figure.set_size_inches(7.2, 1.5 + (0.62 if folds else 0.42) * rows)
    axes = figure.add_subplot()
    axes.axvline(0.0, color=INK, linewidth=1.0)
    for row, comparison in enumerate(comparisons):
        _draw_comparison(axes, row, comparison)
    names = [comparison.name_b if same_a else f"against {comparison.name_a}" for comparison in comparisons]
    axes.set_yticks(range(rows), [shorten(name, 24) for name in names])
    axes.set(xlim=_limits(comparisons), ylim=(rows - 0.5 + (_BELOW if folds else 0), -0.6))
    shared = f" from {shorten(first.name_a, 30)}" if same_a else f" of {shorten(first.name_b, 30)}"
    axes.set_xlabel(f"difference in {first.title}{shared}")
    _name_sides(axes, first)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, fontsize=9.5)


def _draw_comparison(axes: Axes, row: int, comparison: Comparison) -> None:
    main, *others = comparison.outcomes
    _draw_outcome(axes, row, main, comparison.level, color=SERIES[0], width=2.4)
    folds = next((outcome for outcome in others if outcome.method == "folds"), None)
    if folds is not None:
        _draw_outcome(axes, row + _BELOW, folds, comparison.level, color=SERIES[1], width=1.3)
        dots = [difference for difference in comparison.fold_differences if np.isfinite(difference)]
        heights = [row + _BELOW] * len(dots)
        axes.plot(dots, heights, color=MUTED, linestyle="", marker="o", markersize=3.2, alpha=0.6, label="one fold")
    difference, low, high = (
        PRINTED.signed(value, comparison.digits) for value in (main.difference, main.low, main.high)
    )
    adjusted = f", Holm {PRINTED.p_value(comparison.p_holm)}" if comparison.together > 1 else ""
    tested = f"{difference}  [{low}, {high}]\np {PRINTED.p_value(comparison.p)}{adjusted}"
    axes.annotate(
        tested if np.isfinite(main.low) else f"{difference}\nno interval",
        xy=(1.02, row),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9.5,
    )


def _draw_outcome(axes: Axes, height: float, outcome: Outcome, level: float, *, color: str, width: float) -> None:
    """Draw a point with its interval, or the point alone where there is no interval."""
    label = f"{level:.0%} interval, {_TESTS[outcome.method]}"
    if np.isfinite([outcome.low, outcome.high]).all():
        axes.plot(
            [outcome.low, outcome.high], [height] * 2, color=color, linewidth=width, marker="|", markersize=8 + width
        )
    axes.plot(
        [outcome.difference], [height], color=color, linewidth=width, marker="o", markersize=4 + width, label=label
    )


def _limits(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Return the ends of the x axis, with room for 0 and every mark."""
    values = [0.0]
    for comparison in comparisons:
        for outcome in (comparison.outcomes[0], comparison.fold_test):
            values += [] if outcome is None else [outcome.difference, outcome.low, outcome.high]
        values += comparison.fold_differences
    known = np.array(values)[np.isfinite(values)]
    low, high = min(float(known.min()), -_NARROWEST), max(float(known.max()), _NARROWEST)
    air = 0.04 * (high - low)
    return low - air, high + air


def _name_sides(axes: Axes, comparison: Comparison) -> None:
    """Write above each side of 0 whether it is better or worse."""
    left, right = ("better", "worse") if comparison.lower_is_better else ("worse", "better")
    for x, text, side in ((0.0, f"← {left}", "left"), (1.0, f"{right} →", "right")):
        axes.annotate(
            text,
            xy=(x, 1.0),
            xycoords="axes fraction",
            xytext=(0, 5),
            textcoords="offset points",
            ha=side,
            color=MUTED,
            fontsize=9.5,
        )
