"""Histograms, curves, and squares of curves from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medformer.reporting.figures.style import INK, MUTED, SERIES, drawing

Line = tuple[Sequence[float], Sequence[float]]
"""x and y of the points."""

MANY_LINES = 12
"""With more lines than this, single lines cannot be distinguished; only their spread and median are drawn."""

_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Square:
    """One panel of `squares`: both axes from 0 to 1.

    Attributes:
        title: Above it.
        xlabel: Below it.
        ylabel: Beside it.
        line: The line that matters.
        reference: The dashed line.
        others: Thin lines behind it, such as single folds.
        markers: Whether the points are shown.
    """

    title: str
    xlabel: str
    ylabel: str
    line: Line
    reference: Line
    others: Sequence[Line] = ()
    markers: bool = False


@drawing
def histogram(
    figure: Figure,
    values: Sequence[float],
    *,
    xlabel: str,
    marks: Mapping[str, float],
    ylabel: str = "images",
    high: float = 1.0,
    digits: int = 3,
) -> None:
    """Draw counts of values in [0, high] in twenty bins, with labelled vertical marks; larger values join the last."""
    figure.set_size_inches(7.2, 3.2)
    axes = figure.add_subplot()
    axes.hist(np.minimum(values, high), bins=np.linspace(0, high, 21).tolist(), color=SERIES[0], rwidth=0.92)
    for position, (label, value) in enumerate(marks.items()):
        text = f"{label} {value:.{digits}f}"
        axes.axvline(min(value, high), color=INK, linewidth=1.6, linestyle=_DASHES[position], label=text)
    axes.set(xlim=(0, high), xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=len(marks))


@drawing
def curves(figure: Figure, panels: Mapping[str, Mapping[str, Line]], *, xlabel: str) -> None:
    """Draw panels of lines side by side.

    With more lines than colors, dashes distinguish them. With more than `MANY_LINES`, all are thin and alike, and their
    median is drawn over them.

    Args:
        figure: Given by `drawing`.
        panels: By title, the lines by label.
        xlabel: Below each panel.
    """
    figure.set_size_inches(7.2, 3.1)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    handles: dict[str, Line2D] = {}
    for position, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), position + 1)
        if len(labels) > MANY_LINES:
            handles |= _bundle(axes, list(lines.values()))
        for label, (x, y) in lines.items() if len(labels) <= MANY_LINES else ():
            (line,) = axes.plot(x, y, label=label, linewidth=1.7, marker="o" if len(x) == 1 else "")
            turn, step = divmod(labels.index(label), len(SERIES))
            line.set(color=SERIES[step], linestyle=_DASHES[turn % len(_DASHES)])
            handles[label] = line
        axes.set(title=title, xlabel=xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axes.get_ylim()[0] < 0 <= min(value for _, y in lines.values() for value in y):
            # A margin below 0 would suggest values that these cannot take.
            axes.set_ylim(bottom=0)
    if len(labels) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(labels), 6))


@drawing
def squares(figure: Figure, panels: Sequence[Square]) -> None:
    """Draw panels side by side whose axes go from 0 to 1: ROC, precision against recall, calibration."""
    figure.set_size_inches(2.55 * len(panels), 2.9)
    for position, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        for line in panel.others:
            axes.plot(*line, color=MUTED, linewidth=0.7, alpha=0.55)
        axes.plot(*panel.reference, color=MUTED, linewidth=1.2, linestyle="--")
        axes.plot(*panel.line, color=SERIES[0], linewidth=2, marker="o" if panel.markers else "", markersize=5)
        axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
        axes.set_aspect("equal")


def _bundle(axes: Axes, lines: Sequence[Line]) -> dict[str, Line2D]:
    """Draw many lines thin and their median thick; returns one line of each kind for the legend."""
    at: dict[float, list[float]] = {}
    for x, y in lines:
        (thin,) = axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.55)
        for position, value in zip(x, y, strict=True):
            at.setdefault(position, []).append(value)
    middle = sorted(at)
    (thick,) = axes.plot(middle, [np.median(at[position]) for position in middle], color=SERIES[0], linewidth=2.2)
    return {"one fold": thin, "median of the folds": thick}
