"""Inline SVG figures that follow the page's light or dark theme and repeat byte for byte."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medformer.reporting.blocks import short

# Stand-in colors that become CSS variables of the template, where each has a light and a dark value.
INK, MUTED, GRID = "#fe0001", "#fe0002", "#fe0003"
SERIES = tuple(f"#fe00{index:02x}" for index in range(16, 22))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES)
}
_DASHES = ("-", "--", ":", "-.")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medformer",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    # A dollar sign in a name is not mathematics.
    "text.parse_math": False,
}


MANY_LINES = 12
"""Beyond as many, single lines are no longer told apart and only their spread and middle are drawn."""


@dataclass(frozen=True)
class Square:
    """One panel of `squares`: both axes from 0 to 1.

    Attributes:
        title: Above it.
        xlabel: Below it.
        ylabel: Beside it.
        x: Of the line that matters.
        y: Of the line that matters.
        reference: The dashed line: x of both ends, y of both ends.
        others: Thin lines behind it, such as single folds.
        markers: Whether the points are shown.
    """

    title: str
    xlabel: str
    ylabel: str
    x: Sequence[float]
    y: Sequence[float]
    reference: tuple[tuple[float, float], tuple[float, float]]
    others: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    markers: bool = False


def histogram(
    key: str,
    values: Sequence[float],
    *,
    xlabel: str,
    marks: Mapping[str, float],
    ylabel: str = "images",
    high: float = 1.0,
    digits: int = 3,
) -> str:
    """Draw counts of values in [0, high] in twenty bins, with labelled vertical marks; larger values join the last."""
    with rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 3.2), layout="constrained")
        axes = canvas.add_subplot()
        axes.hist(np.minimum(values, high), bins=np.linspace(0, high, 21).tolist(), color=SERIES[0], rwidth=0.92)
        for position, (label, value) in enumerate(marks.items()):
            text = f"{label} {value:.{digits}f}"
            axes.axvline(min(value, high), color=INK, linewidth=1.6, linestyle=_DASHES[position], label=text)
        axes.set(xlim=(0, high), xlabel=xlabel, ylabel=ylabel)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.legend(loc="outside upper left", ncols=len(marks))
        return to_svg(canvas, key)


def curves(
    key: str, panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, xlabel: str
) -> str:
    """Draw line panels side by side: panel title -> line label -> (x, y).

    Beyond as many lines as there are colors, dashes tell them apart; beyond `MANY_LINES` all are alike and thin, with
    their median over them.
    """
    with rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 3.1), layout="constrained")
        labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
        handles: dict[str, Line2D] = {}
        for position, (title, lines) in enumerate(panels.items()):
            axes = canvas.add_subplot(1, len(panels), position + 1)
            if len(labels) > MANY_LINES:
                handles |= _bundle(axes, list(lines.values()))
            for label, (x, y) in lines.items() if len(labels) <= MANY_LINES else ():
                marker = "o" if len(x) == 1 else ""
                (line,) = axes.plot(x, y, label=label, linewidth=1.7, marker=marker)
                turn, step = divmod(labels.index(label), len(SERIES))
                line.set(color=SERIES[step], linestyle=_DASHES[turn % len(_DASHES)])
                handles[label] = line
            axes.set(title=title, xlabel=xlabel)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if axes.get_ylim()[0] < 0 <= min(value for _, y in lines.values() for value in y):
                # A margin below 0 would suggest values that these cannot take.
                axes.set_ylim(bottom=0)
        if len(labels) > 1:
            canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(labels), 6))
        return to_svg(canvas, key)


def squares(key: str, panels: Sequence[Square]) -> str:
    """Draw panels side by side whose axes go from 0 to 1: ROC, precision against recall, calibration."""
    with rc_context(STYLE):
        canvas = Canvas(figsize=(2.55 * len(panels), 2.9), layout="constrained")
        for position, panel in enumerate(panels):
            axes = canvas.add_subplot(1, len(panels), position + 1)
            for x, y in panel.others:
                axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.55)
            axes.plot(*panel.reference, color=MUTED, linewidth=1.2, linestyle="--")
            axes.plot(panel.x, panel.y, color=SERIES[0], linewidth=2, marker="o" if panel.markers else "", markersize=5)
            axes.set(
                title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
            )
            axes.set_xticks([0, 0.5, 1])
            axes.set_yticks([0, 0.5, 1])
            axes.set_aspect("equal")
        return to_svg(canvas, key)


def forest(key: str, rows: Sequence[tuple[str, float, float, float]], *, xlabel: str, reference: float) -> str:
    """Draw one line per part: (label, mean, low, high); a NaN interval draws the mean alone.

    Args:
        key: Prefix of the ids in the drawing.
        rows: Parts, top to bottom.
        xlabel: What is measured.
        reference: Drawn as a vertical line: the value of the whole.
    """
    with rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 0.9 + 0.34 * len(rows)), layout="constrained")
        axes = canvas.add_subplot()
        axes.axvline(reference, color=MUTED, linewidth=1.2, linestyle="--")
        for position, (_, mean, low, high) in enumerate(rows):
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [position, position], color=SERIES[0], linewidth=2, marker="|", markersize=11)
            axes.plot([mean], [position], color=SERIES[0], marker="o", markersize=6, clip_on=False)
        axes.set_yticks(range(len(rows)), [_short(label) for label, *_ in rows])
        axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
        _limit_to_unit(axes, [value for _, *values in rows for value in values if np.isfinite(value)])
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        return to_svg(canvas, key)


def _bundle(axes: Axes, lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, Line2D]:
    """Draw many lines thin and their median thick; returns one line of each kind for the legend."""
    at: dict[float, list[float]] = {}
    for x, y in lines:
        (thin,) = axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.55)
        for position, value in zip(x, y, strict=True):
            at.setdefault(position, []).append(value)
    middle = sorted(at)
    (thick,) = axes.plot(middle, [np.median(at[position]) for position in middle], color=SERIES[0], linewidth=2.2)
    return {"one fold": thin, "median of the folds": thick}


def _short(label: str, longest: int = 36) -> str:
    """Keep a long name from taking the room of the drawing; the table beside it has the whole name."""
    return short(label, longest)


def _limit_to_unit(axes: Axes, values: Sequence[float]) -> None:
    """Zoom in, but never so far that small differences look large, nor beyond [0, 1]."""
    low, high = min(values), max(values)
    axes.set_xlim(max(0.0, min(low - 0.04, high - 0.3)), min(1.0, max(high + 0.04, low + 0.3)) + 0.005)


def to_svg(canvas: Canvas, key: str) -> str:
    """Write a drawing made under `STYLE`; `key` keeps its ids apart from those of other drawings of the page."""
    buffer = StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Several drawings share the page, so each gets its own names; scripts of no kind are in them.
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    text = re.sub(r'\s(?:xlink:)?href="#', f' href="#{key}-', text)
    text = text.replace(' xlink:href="data:', ' href="data:')
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.strip()
