"""Comparisons as files: data, a table, and the forest plot as a drawing of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from medformer.crossval.compare.result import Comparison
from medformer.errors import ConfigError
from medformer.files import write_csv, write_json, write_text
from medformer.reporting.figures.intervals import comparison_forest

_COLUMNS = (
    "run_a",
    "run_b",
    "metric",
    "cases",
    "groups",
    "repeats",
    "value_a",
    "value_b",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "test",
    "no_interval",
    "folds",
    "folds_won",
    "folds_lost",
    "folds_tied",
    "left_out",
)
_OF_TESTS = ("difference", "low", "high", "p", "p_holm", "no_interval")


def write_comparison(out: Path, comparisons: Sequence[Comparison]) -> list[Path]:
    """Write comparison.json, comparison.csv and comparison.svg.

    Args:
        out: A folder, made if missing; files of the same names are replaced.
        comparisons: Of one metric, with the first or the second run in common.

    Returns:
        The files written.

    Raises:
        ConfigError: `out` is a file.
        ResourceError: The folder cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; expected a folder. Choose another name.")
    data, table, drawn = (out / f"comparison.{suffix}" for suffix in ("json", "csv", "svg"))
    write_json(data, [comparison.to_json() for comparison in comparisons])
    rows = [_row(comparison) for comparison in comparisons]
    write_csv(table, rows, list(rows[0]))
    write_text(drawn, standalone(comparison_forest("comparison", comparisons), _title(comparisons)))
    return [data, table, drawn]


def standalone(svg: str, title: str) -> str:
    """Make a complete SVG file of an inline drawing of the report.

    The drawing has its own background, so that it is readable on any page. Colors are written out, because drawing
    programs do not know CSS variables; a style sheet replaces them where the reader's browser is dark.
    """
    light, dark = _themes()
    paper = f'<rect width="100%" height="100%" style="fill: {light["--paper"]}"/>'
    rules = []
    for name in sorted({"--paper", *re.findall(r"var\((--[\w-]+)\)", svg)}):
        svg = svg.replace(f"var({name})", light[name])
        rules += [
            f'[style*="{what}: {light[name]}"] {{ {what}: {dark[name]} !important; }}' for what in ("fill", "stroke")
        ]
    opening = re.match(r'<svg\b[^>]*viewBox="0 0 (?P<width>\S+) (?P<height>[^"\s]+)"[^>]*>', svg)
    assert opening is not None
    size = f'width="{opening["width"]}pt" height="{opening["height"]}pt"'
    head = opening.group().replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" {size}', 1)
    style = "\n".join(["@media (prefers-color-scheme: dark) {", *rules, "}"])
    body = svg[opening.end() :]
    return f"{head}\n<title>{escape(title)}</title>\n<style>\n{style}\n</style>\n{paper}{body}\n"


def _themes() -> tuple[dict[str, str], dict[str, str]]:
    """The light and the dark colors of the report's style sheet, by variable."""
    style = files("medformer.reporting").joinpath("templates/report.css").read_text("utf-8")
    light, dark, *_ = (dict(re.findall(r"(--[\w-]+): (#\w+)", root)) for root in re.findall(r":root \{[^}]*\}", style))
    return light, dark


def _title(comparisons: Sequence[Comparison]) -> str:
    return f"Differences in {comparisons[0].title}: " + "; ".join(f"{c.name_b} against {c.name_a}" for c in comparisons)


def _row(comparison: Comparison) -> dict[str, Any]:
    row = {name: getattr(comparison, name) for name in _COLUMNS}
    for name in ("bootstrap", "fold_test", "delong"):
        outcome = getattr(comparison, name)
        for column in _OF_TESTS:
            row[f"{name}_{column}"] = "" if outcome is None else getattr(outcome, column)
    return row
