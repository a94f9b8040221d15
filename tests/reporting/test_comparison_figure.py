from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from medformer.crossval.compare.pairs import Lost
from medformer.crossval.compare.result import Comparison, Outcome
from medformer.errors import ConfigError
from medformer.files import read_csv, read_json
from medformer.reporting.comparison_files import write_comparison
from medformer.reporting.figures.intervals import comparison_forest

SVG = "{http://www.w3.org/2000/svg}"


def make(name: str, difference: float, half: float = 0.02) -> Comparison:
    low, high = difference - half, difference + half
    bootstrap = Outcome("bootstrap", 0.7, 0.7 + difference, difference, low, high, 0.04, 0.08, 30)
    return Comparison(
        run_a="/runs/<unet>",
        run_b=f"/runs/{name}",
        name_a="<unet>",
        name_b=name,
        kind="segmentation",
        metric="dice",
        title="mean Dice",
        lower_is_better=False,
        digits=3,
        cases=90,
        groups=30,
        repeats=1,
        value_a=0.7,
        value_b=0.7 + difference,
        difference=difference,
        low=low,
        high=high,
        p=0.04,
        p_holm=0.08,
        level=0.95,
        together=2,
        test="bootstrap",
        identical=False,
        folds=3,
        folds_won=2,
        folds_lost=1,
        folds_tied=0,
        fold_differences=(0.01, 0.03, -0.01, math.nan),
        bootstrap=bootstrap,
        fold_test=replace(bootstrap, method="folds", low=low - 0.01, high=high + 0.01, units=3),
        delong=None,
        left_out=0,
        one_sided=0,
        lost=Lost(),
        cautions=(),
    )


@pytest.fixture
def comparisons() -> list[Comparison]:
    return [make("caformer & $x$", 0.05), make("prior", -0.1)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def horizontal(svg: str) -> list[tuple[float, float]]:
    """Both ends of every drawn interval, in the order drawn."""
    found = re.findall(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path', svg)
    return [(float(x), float(z)) for x, y, z, w in found if y == w and x != z]


def test_the_inline_drawing_follows_the_page_and_repeats(comparisons: list[Comparison]) -> None:
    svg = comparison_forest("versus", comparisons)
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("width") is None
    assert "http" not in svg
    assert "var(--ink)" in svg
    assert "#fe00" not in svg
    assert all(name.startswith("versus-") for name in re.findall(r'\bid="([^"]*)"', svg))
    assert svg == comparison_forest("versus", comparisons)


def test_every_run_has_its_interval_where_the_numbers_are(comparisons: list[Comparison]) -> None:
    spans = horizontal(comparison_forest("versus", comparisons))
    assert len(spans) == 4
    (a_low, a_high), (fold_low, fold_high), (b_low, b_high), _ = spans
    assert a_high - a_low == pytest.approx(b_high - b_low, rel=1e-3)
    assert fold_high - fold_low == pytest.approx(1.5 * (a_high - a_low), rel=1e-3)
    assert (a_low - b_low) / (a_high - a_low) == pytest.approx(0.15 / 0.04, rel=1e-3)


def test_names_numbers_and_sides_can_be_read(comparisons: list[Comparison]) -> None:
    shown = texts(comparison_forest("versus", comparisons))
    assert {"caformer & $x$", "prior", "difference in mean Dice from <unet>", "one fold"} <= set(shown)
    assert "+0.050  [+0.030, +0.070]" in shown
    assert "p 0.040, Holm 0.080" in shown
    assert [text for text in shown if "worse" in text or "better" in text] == ["← worse", "better →"]
    less = [replace(comparison, lower_is_better=True) for comparison in comparisons]
    turned = texts(comparison_forest("versus", less))
    assert [text for text in turned if "worse" in text or "better" in text] == ["← better", "worse →"]


def test_a_model_against_several_others_names_these(comparisons: list[Comparison]) -> None:
    turned = [replace(c, run_a=c.run_b, name_a=c.name_b, run_b="/runs/model", name_b="the model") for c in comparisons]
    shown = texts(comparison_forest("versus", turned))
    assert {"against caformer & $x$", "against prior", "difference in mean Dice of the model"} <= set(shown)


def test_what_has_no_interval_is_drawn_as_a_point(comparisons: list[Comparison]) -> None:
    nan = math.nan
    bare = replace(comparisons[0].bootstrap, low=nan, high=nan, p=nan)
    lone = replace(
        comparisons[0], bootstrap=bare, low=nan, high=nan, p=nan, p_holm=nan, fold_test=None, fold_differences=()
    )
    svg = comparison_forest("versus", [lone])
    assert horizontal(svg) == []
    assert "+0.050" in " ".join(texts(svg))


def test_the_files_hold_the_numbers_and_a_drawing_that_stands_alone(
    comparisons: list[Comparison], tmp_path: Path
) -> None:
    written = write_comparison(tmp_path / "new" / "folder", comparisons)
    assert [path.name for path in written] == ["comparison.json", "comparison.csv", "comparison.svg"]
    data, table, drawing = written
    content = read_json(data)
    assert [entry["difference"] for entry in content] == [0.05, -0.1]
    assert content[0]["fold_differences"] == [0.01, 0.03, -0.01, None]
    rows = read_csv(table)
    assert [row["run_b"] for row in rows] == ["/runs/caformer & $x$", "/runs/prior"]
    assert float(rows[0]["fold_test_p_holm"]) == 0.08
    assert rows[0]["delong_p"] == ""
    text = drawing.read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("width", "").endswith("pt")
    assert root.findtext(f"{SVG}title") == (
        "Differences in mean Dice: caformer & $x$ against <unet>; prior against <unet>"
    )
    assert "var(" not in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_comparison(tmp_path / "new" / "folder", comparisons)] == before


def test_a_file_is_no_folder_to_write_into(comparisons: list[Comparison], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        write_comparison(tmp_path / "taken", comparisons)


def test_dark_values_exist_for_every_color_of_the_drawing(comparisons: list[Comparison], tmp_path: Path) -> None:
    text = write_comparison(tmp_path, comparisons)[2].read_text("utf-8")
    body, style = text.split("</style>", 1)[1], text.split("</style>", 1)[0]
    used = {(what, color) for what, color in re.findall(r"(fill|stroke): (#[0-9a-f]{6})", body)}
    assert used
    for what, color in used:
        assert f'[style*="{what}: {color}"]' in style
