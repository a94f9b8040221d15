"""The one style of all figures: inline SVG that follows the page's light or dark theme and repeats byte for byte."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import wraps
from io import StringIO
from typing import Any, Concatenate, ParamSpec

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

P = ParamSpec("P")

# Stand-in colors that become CSS variables of the template, where each has a light and a dark value.
INK, MUTED, GRID = "#fe0001", "#fe0002", "#fe0003"
SERIES = tuple(f"#fe00{index:02x}" for index in range(16, 22))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES)
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medformer",
    # The page lies behind.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
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


def drawing(draw: Callable[Concatenate[Figure, P], None]) -> Callable[Concatenate[str, P], str]:
    """Make a function that draws on an empty figure return the drawing as inline SVG.

    The new function takes, in place of the figure, a key: the prefix that keeps the ids of the drawing apart from those
    of other drawings on the page. It is a name of ours, because it is not escaped.
    """

    @wraps(draw)
    def to_inline_svg(key: str, /, *args: P.args, **kwargs: P.kwargs) -> str:
        with rc_context(STYLE):
            figure = Figure(layout="constrained")
            draw(figure, *args, **kwargs)
            return _to_svg(figure, key)

    return to_inline_svg


def _to_svg(figure: Figure, key: str) -> str:
    buffer = StringIO()
    with warnings.catch_warnings():
        # Text stays text, which the reader's fonts draw: it is no fault that those of this machine lack a script.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # `savefig` draws everything twice, the first time to no file.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Paths have more digits than a screen can show.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), text)
    # Several drawings share the page, so each gets its own names.
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    text = re.sub(r'\s(?:xlink:)?href="#', f' href="#{key}-', text)
    text = text.replace(' xlink:href="data:', ' href="data:')
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text.strip()
