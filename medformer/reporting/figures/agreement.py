"""Bland-Altman plots as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas

from medformer.reporting.blocks import short
from medformer.reporting.figures.charts import INK, MUTED, SERIES, STYLE, to_svg

COLUMNS = 3
LONGEST_TITLE = 24
_CROWDED = 150

# Where the bars stand, in shares of the width: side by side, since those of few cases overlap.
_BARS = (0.985, 0.955, 0.985)


@dataclass(frozen=True)
class AgreementPanel:
    """One label.

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


def bland_altman(key: str, panels: Sequence[AgreementPanel], *, unit: str = "ml") -> str:
    """Draw differences against means, a panel for each label, in rows of three.

    A solid line is the bias, dashed ones are the limits of agreement, each with its interval as a bar at the right end;
    the thin line is no difference.
    """
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // COLUMNS)
    # A single panel keeps the width of the page without growing as high.
    width = 5.2 if across == 1 else 3.6 if across == 2 else 2.5
    with rc_context(STYLE):
        canvas = Canvas(figsize=(width * across, 2.9 * down), layout="constrained")
        for position, panel in enumerate(panels):
            axes = canvas.add_subplot(down, across, position + 1)
            axes.axhline(0, color=MUTED, linewidth=0.9)
            size, alpha = (3.0, 0.5) if len(panel.means) > _CROWDED else (4.5, 0.75)
            axes.plot(panel.means, panel.differences, "o", color=SERIES[0], markersize=size, alpha=alpha)
            axes.axhline(panel.bias, color=INK, linewidth=1.6)
            for limit in panel.limits:
                if limit == limit:
                    axes.axhline(limit, color=INK, linewidth=1.4, linestyle="--")
            for place, span in zip(_BARS, panel.spans, strict=True):
                if all(end == end for end in span):
                    at = axes.get_yaxis_transform()
                    axes.plot([place, place], span, color=SERIES[1], linewidth=2, marker="_", transform=at)
            axes.set(title=short(panel.title, LONGEST_TITLE))
            axes.margins(x=0.12, y=0.08)
            if position % across == 0:
                axes.set_ylabel(f"predicted − reference ({unit})")
            axes.set_xlabel(f"mean of both ({unit})")
        return to_svg(canvas, key)
