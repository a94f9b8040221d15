"""The forest plot of comparisons: how far each run lies from the other, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from medformer.crossval.compare.result import Comparison, Outcome
from medformer.evaluation.number_format import PLAIN, shorten
from medformer.reporting.blocks import Figure
from medformer.reporting.figures.charts import INK, MUTED, SERIES, STYLE, to_svg

_SPANS = {
    "bootstrap": "bootstrap over groups",
    "delong": "DeLong's test over cases",
    "folds": "t-test over folds",
}

# A difference below this is never blown up to the width of the drawing.
_NARROWEST = 0.02

# Where the folds of a comparison are drawn, below its line.
_BELOW = 0.3


def comparison_forest(key: str, comparisons: Sequence[Comparison]) -> str:
    """Draw a line per comparison: the difference with its interval, below it that over folds, and each fold as a dot.

    All comparisons are of the same metric, and share the first run or the second.

    Args:
        key: Prefix of the ids in the drawing.
        comparisons: Top to bottom.

    Returns:
        Inline SVG that follows the colors of the report.
    """
    first = comparisons[0]
    same_a = len({comparison.run_a for comparison in comparisons}) == 1
    folds = any(comparison.fold_test for comparison in comparisons)
    rows = len(comparisons)
    with rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 1.5 + (0.62 if folds else 0.42) * rows), layout="constrained")
        axes = canvas.add_subplot()
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for row, comparison in enumerate(comparisons):
            _draw(axes, row, comparison)
        names = [comparison.name_b if same_a else f"against {comparison.name_a}" for comparison in comparisons]
        axes.set_yticks(range(rows), [shorten(name, 24) for name in names])
        axes.set(xlim=_limits(comparisons), ylim=(rows - 0.5 + (_BELOW if folds else 0), -0.6))
        whom = f" from {shorten(first.name_a, 30)}" if same_a else f" of {shorten(first.name_b, 30)}"
        axes.set_xlabel(f"difference in {first.title}{whom}")
        _say_sides(axes, first)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        canvas.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, fontsize=9.5)
        return to_svg(canvas, key)


def comparison_block(key: str, comparisons: Sequence[Comparison]) -> Figure:
    """The forest plot as a block of the report, with what it shows in words."""
    spoken = [
        f"{c.name_b} against {c.name_a}: {PLAIN.signed(c.difference, c.digits)}, "
        f"{c.level:.0%} interval {PLAIN.signed(c.low, c.digits)} to {PLAIN.signed(c.high, c.digits)}"
        for c in comparisons
    ]
    return Figure(
        svg=comparison_forest(key, comparisons),
        alt=f"Differences in {comparisons[0].title}. {'; '.join(spoken)}.",
        caption="Each difference with its interval; at the vertical line there is none. An interval that crosses the "
        "line does not tell the two apart.",
    )


def _draw(axes: Axes, row: int, comparison: Comparison) -> None:
    main, *others = comparison.outcomes
    _line(axes, row, main, comparison.level, color=SERIES[0], width=2.4)
    folds = next((outcome for outcome in others if outcome.method == "folds"), None)
    if folds is not None:
        _line(axes, row + _BELOW, folds, comparison.level, color=SERIES[1], width=1.3)
        dots = [difference for difference in comparison.fold_differences if np.isfinite(difference)]
        axes.plot(
            dots,
            [row + _BELOW] * len(dots),
            color=MUTED,
            linestyle="",
            marker="o",
            markersize=3.2,
            alpha=0.6,
            label="one fold",
        )
    adjusted = f", Holm {PLAIN.p_value(comparison.p_holm)}" if comparison.together > 1 else ""
    interval = ", ".join(PLAIN.signed(end, comparison.digits) for end in (main.low, main.high))
    axes.annotate(
        f"{PLAIN.signed(main.difference, comparison.digits)}  [{interval}]\np {PLAIN.p_value(comparison.p)}{adjusted}",
        xy=(1.02, row),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9.5,
    )


def _line(axes: Axes, height: float, outcome: Outcome, level: float, *, color: str, width: float) -> None:
    """A point with its interval; a point alone where there is no interval."""
    label = f"{level:.0%} interval, {_SPANS[outcome.method]}"
    if np.isfinite([outcome.low, outcome.high]).all():
        axes.plot(
            [outcome.low, outcome.high], [height] * 2, color=color, linewidth=width, marker="|", markersize=8 + width
        )
    axes.plot(
        [outcome.difference], [height], color=color, linewidth=width, marker="o", markersize=4 + width, label=label
    )


def _limits(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Hold every mark and 0, with some air."""
    values = [0.0]
    for comparison in comparisons:
        for outcome in (comparison.outcomes[0], comparison.fold_test):
            values += [] if outcome is None else [outcome.difference, outcome.low, outcome.high]
        values += comparison.fold_differences
    known = np.array(values)[np.isfinite(values)]
    low, high = min(float(known.min()), -_NARROWEST), max(float(known.max()), _NARROWEST)
    air = 0.04 * (high - low)
    return low - air, high + air


def _say_sides(axes: Axes, comparison: Comparison) -> None:
    """Say above both sides of 0 what they mean."""
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
