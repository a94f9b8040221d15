from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from medformer.reporting.figures.charts import curves, histogram
from medformer.reporting.figures.intervals import forest


def draw_all() -> dict[str, str]:
    lines = {f"fold {index}": ([1.0, 2.0, 3.0], [0.5, 0.6, 0.7 + index / 50]) for index in range(8)}
    return {
        "h": histogram("h", [0.1, 0.5, 0.9, 0.95], xlabel="Dice", marks={"mean": 0.6125, "median": 0.7}),
        "c": curves("c", {"Loss": lines, "Dice": {"fold 0": ([1.0], [0.5])}}, xlabel="epoch"),
        "f": forest(
            "f", [("a < b & $x$", 0.8, 0.7, 0.9), ("b", 0.6, math.nan, math.nan)], xlabel="Dice", reference=0.7
        ),
    }


@pytest.mark.parametrize("key", ["h", "c", "f"])
def test_drawings_are_clean_svg_with_their_own_names(key: str) -> None:
    text = draw_all()[key]
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "http" not in text
    assert "metadata" not in text
    assert all(name.startswith(f"{key}-") for name in re.findall(r'\bid="([^"]*)"', text))
    assert "var(--ink)" in text
    assert "#fe00" not in text


@pytest.mark.filterwarnings("error")
def test_names_in_any_script_stay_text() -> None:
    drawn = forest("f", [("\u816b\u7624", 0.8, 0.7, 0.9)], xlabel="Dice", reference=0.7)
    assert "\u816b\u7624" in [element.text for element in ElementTree.fromstring(drawn).iter("text")]


def test_drawings_repeat() -> None:
    assert draw_all() == draw_all()


def test_one_epoch_gets_one_tick_and_no_values_below_zero() -> None:
    drawn = curves("c", {"Dice": {"fold 0": ([1.0], [0.0])}}, xlabel="epoch")
    texts = [element.text or "" for element in ElementTree.fromstring(drawn).iter("text")]
    numbers = [text for text in texts if text[-1:].isdigit()]
    assert "1" in numbers
    assert not [text for text in numbers if text.startswith(("−", "-")) or text.startswith(("0.9", "1.0"))]


def test_long_names_leave_room_for_the_drawing() -> None:
    name = "a hospital whose name goes on for much longer than a label should (n = 12)"
    texts = [
        element.text or ""
        for element in ElementTree.fromstring(forest("f", [(name, 0.5, 0.4, 0.6)], xlabel="x", reference=0.5)).iter(
            "text"
        )
    ]
    (label,) = [text for text in texts if "…" in text]
    assert len(label) == 36
    assert label.endswith("(n = 12)")


def test_labels_are_text_and_never_mathematics() -> None:
    texts = [element.text for element in ElementTree.fromstring(draw_all()["f"]).iter("text")]
    assert "a < b & $x$" in texts
    assert "Dice" in texts


def test_a_histogram_has_a_bar_per_filled_bin_with_its_height() -> None:
    text = histogram("h", [0.02, 0.97, 0.98, 1.0], xlabel="Dice", marks={"mean": 0.5})
    heights = []
    for path in re.findall(r'<path d="([^"]+)" clip-path="[^"]+" style="fill: var\(--series-0\)"', text):
        ys = [float(pair.split()[1]) for pair in re.findall(r"[ML] ([\d.]+ [\d.]+)", path)]
        heights.append(max(ys) - min(ys))
    assert len(heights) == 20
    assert sum(height > 0 for height in heights) == 2
    assert heights[-1] == pytest.approx(3 * heights[0], rel=1e-3)


def test_many_lines_differ_by_dash_once_the_colors_are_used_up() -> None:
    text = draw_all()["c"]
    strokes = set(re.findall(r"stroke: var\((--series-\d)\)", text))
    assert strokes == {f"--series-{index}" for index in range(6)}
    assert "stroke-dasharray" in text
