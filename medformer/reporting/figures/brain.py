"""Drawings of connectomes: the leading edges on a glass brain, and all edges of an atlas as a matrix.

nilearn draws both. It reads the outlines of the brain from its own package; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from numpy.typing import NDArray

from medformer.reporting.figures.style import INK, MUTED, SERIES, drawing
from medformer.reporting.wording import shorten

# Not the hues of the matrix, where colors mean something else.
RAISES, LOWERS = SERIES[3], SERIES[2]
_DASH = (0, (2.2, 1.2))

# The shades of a matrix are pixels, which cannot follow the theme: two hues that are visible on white and on black, and
# that fade into either towards 0.
_ABOVE, _BELOW = (46, 139, 205), (226, 118, 52)
_LEVELS = 16

CLIP = 99.5
"""Percentile of the magnitudes that gets the full shade: a single extreme edge would leave all others blank."""


@drawing
def glass_brain(
    figure: Figure, edges: Sequence[tuple[int, int, float, float]], coordinates: NDArray[np.float64]
) -> None:
    """Draw edges between regions, seen from the left, from above, from the right and from behind.

    Args:
        figure: Given by `drawing`.
        edges: (region, region, weight, direction): the line is as thick as the weight, and solid where the direction is
            above 0, dashed where it is below.
        coordinates: MNI, mm, (regions, 3).
    """
    from nilearn.plotting import plot_connectome  # takes seconds, and only reports with brains need it

    used = sorted({region for i, j, *_ in edges for region in (i, j)})
    place = {region: index for index, region in enumerate(used)}
    strongest = max((weight for *_, weight, _ in edges), default=1.0) or 1.0
    matrix = np.zeros((len(used), len(used)))
    for i, j, weight, direction in edges:
        matrix[place[i], place[j]] = matrix[place[j], place[i]] = (weight if direction > 0 else -weight) / strongest
    degree = np.count_nonzero(matrix, axis=1)
    figure.set_size_inches(7.2, 2.5)
    figure.set_layout_engine("none")
    frame = figure.add_axes((0.0, 0.12, 1.0, 0.78))
    frame.axis("off")
    display = plot_connectome(
        matrix,
        coordinates[used],
        node_color=INK,
        node_size=[7 + 3 * float(count) for count in degree],
        node_kwargs={"linewidths": 0},
        edge_cmap=ListedColormap([LOWERS, RAISES]),
        edge_vmin=-1,
        edge_vmax=1,
        display_mode="lzry",
        axes=frame,
        annotate=False,
        alpha=1,
        colorbar=False,
    )
    for direction, cut in display.axes.items():
        _restyle(cut.ax, direction)
    handles = [
        Line2D([], [], color=RAISES, linewidth=2, label="a stronger connection raises the score"),
        Line2D([], [], color=LOWERS, linewidth=2, linestyle=_DASH, label="a stronger connection lowers it"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2)


@drawing
def edge_matrix(
    figure: Figure,
    matrices: Mapping[str, NDArray[np.float64]],
    networks: Mapping[str, Sequence[str]],
    *,
    label: str,
) -> None:
    """Draw symmetric matrices (regions, regions) side by side, each with its own scale.

    Args:
        figure: Given by `drawing`.
        matrices: By atlas.
        networks: By atlas, the network of each region; regions of a network are put together and its name is beside
            them. Atlases without networks keep their order.
        label: What a shade means.
    """
    from nilearn.plotting import plot_matrix  # as above

    columns = min(len(matrices), 2)
    rows = -(-len(matrices) // columns)
    figure.set_size_inches(7.2, (4.0 if columns == 2 else 5.0) * rows)
    for position, (atlas, matrix) in enumerate(matrices.items(), 1):
        axes = figure.add_subplot(rows, columns, position)
        axes.grid(visible=False)
        known = networks.get(atlas, ())
        order = sorted(range(len(matrix)), key=lambda region: known[region]) if known else range(len(matrix))
        limit = shade_limit(matrix)
        image = plot_matrix(
            matrix[np.ix_(order, order)], axes=axes, colorbar=False, cmap=_shades(), vmin=-limit, vmax=limit
        )
        # The drawing keeps one pixel per edge, whatever size the page gives it.
        image.set_interpolation("none")
        axes.set_title(atlas)
        axes.spines[:].set_visible(True)
        _name_networks(axes, [known[region] for region in order] if known else [], len(matrix))
        _scale(axes, limit, label)


def shade_limit(matrix: NDArray[np.float64]) -> float:
    """The magnitude that gets the full shade."""
    magnitudes = np.abs(matrix[np.triu_indices(len(matrix), 1)])
    return float(np.percentile(magnitudes, CLIP)) or float(magnitudes.max()) or 1.0


def _restyle(axes: Axes, direction: str) -> None:
    """Draw outlines in the color of the page's text and lowering edges dashed, and name the sides."""
    for patch in axes.patches:
        if isinstance(patch, PathPatch):
            patch.set_edgecolor(MUTED)
            patch.set_linewidth(0.7)
    for line in axes.lines:
        line.set_solid_capstyle("round")
        if same_color(line.get_color(), LOWERS):
            line.set_linestyle(_DASH)
    names = {"l": "left", "r": "right", "z": "above", "y": "behind"}
    axes.set_title(names[direction], fontsize=9.5, fontweight="normal", color=INK, loc="center", pad=2)
    if direction in "zy":
        for x, side in ((0.03, "L"), (0.97, "R")):
            axes.text(x, 0.97, side, transform=axes.transAxes, ha="center", va="top", fontsize=9, color=MUTED)


def _shades() -> ListedColormap:
    """From one hue over transparent to the other hue."""
    strength = np.abs(np.linspace(-1, 1, 2 * _LEVELS + 1))
    colors = np.where((np.arange(2 * _LEVELS + 1) > _LEVELS)[:, None], _ABOVE, _BELOW) / 255
    return ListedColormap(np.column_stack([colors, strength]))


def _scale(axes: Axes, limit: float, label: str) -> None:
    """Draw a bar of shades below a matrix."""
    bar = axes.inset_axes((0.15, -0.13, 0.7, 0.035))
    bar.grid(visible=False)
    shades = np.linspace(-1, 1, 2 * _LEVELS + 1)[None]
    bar.imshow(shades, cmap=_shades(), aspect="auto", interpolation="none", extent=(-1, 1, 0, 1))
    bar.set_xticks([-1, 0, 1], [f"≤ −{limit:.2g}", "0", f"≥ {limit:.2g}"], fontsize=8.5)
    bar.set_yticks([])
    bar.set_xlabel(label, fontsize=9)


def _name_networks(axes: Axes, networks: Sequence[str], regions: int) -> None:
    """Draw lines between networks and write their names; without networks, the numbers of the first and last region."""
    if not networks:
        axes.set_xticks([])
        axes.set_yticks([0, regions - 1], ["1", str(regions)], fontsize=8.5)
        return
    at, ticks, names = 0, [], []
    for name, members in groupby(networks):
        size = len(list(members))
        if at:
            axes.axhline(at - 0.5, color=MUTED, linewidth=0.5)
            axes.axvline(at - 0.5, color=MUTED, linewidth=0.5)
        ticks.append(at + (size - 1) / 2)
        names.append(shorten(name, 18))
        at += size
    axes.set_xticks([])
    axes.set_yticks(ticks, names, fontsize=8, rotation=0)
    axes.tick_params(axis="y", length=0)
