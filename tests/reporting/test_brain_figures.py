from __future__ import annotations

import base64
import re
import socket
from io import BytesIO
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from medformer.reporting.figures.brain import edge_matrix, glass_brain, shade_limit

PLACES = np.array([[-40.0, -20, 30], [40, -20, 30], [-30, 40, 10], [30, -60, -20], [0, 0, 60], [np.nan] * 3])
EDGES = [(0, 2, 2.0, 0.3), (1, 3, 1.0, -0.1), (0, 1, 0.5, 0.2)]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a drawing asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def draw_all() -> dict[str, str]:
    draw = np.random.default_rng(0)
    block = draw.normal(size=(6, 6))
    matrices = {"aal": block + block.T, "cc200": block * block.T, "dos160": np.zeros((4, 4))}
    networks = {"aal": ["visual", "default", "visual", "a & <b> $x$", "default", "default"]}
    return {"g": glass_brain("g", EDGES, PLACES), "m": edge_matrix("m", matrices, networks, label="contribution")}


@pytest.mark.parametrize("key", ["g", "m"])
def test_drawings_are_clean_svg_with_their_own_names(key: str) -> None:
    text = draw_all()[key]
    root = ElementTree.fromstring(text)
    assert root.tag == "svg" and root.get("viewBox")
    assert "http" not in text and "metadata" not in text
    assert all(name.startswith(f"{key}-") for name in re.findall(r'\bid="([^"]*)"', text))
    assert "var(--ink)" in text
    assert "#fe00" not in text
    links = re.findall(r'href="([^"]*)"', text)
    assert all(link.startswith((f"#{key}-", "data:image/png;base64,")) for link in links)


def test_drawings_repeat_and_leave_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams), matplotlib.get_backend()
    assert draw_all() == draw_all()
    assert (dict(matplotlib.rcParams), matplotlib.get_backend()) == before
    assert not pyplot.get_fignums()


def test_directions_have_their_own_color_and_dashes() -> None:
    text = draw_all()["g"]
    assert "var(--series-3)" in text and "var(--series-2)" in text
    lowered = [line for line in re.findall(r'style="([^"]*)"', text) if "var(--series-2)" in line]
    raised = [line for line in re.findall(r'style="([^"]*)"', text) if "var(--series-3)" in line]
    assert all("stroke-dasharray" in line for line in lowered)
    assert not any("stroke-dasharray" in line for line in raised)


def test_matrix_puts_the_regions_of_a_network_together_and_keeps_every_pixel() -> None:
    root = ElementTree.fromstring(draw_all()["m"])
    texts = [element.text or "" for element in root.iter("text")]
    assert texts.index("a & <b> $x$") < texts.index("default") < texts.index("visual")
    assert {"aal", "cc200", "dos160", "1", "6"} <= set(texts)
    images = [element for element in root.iter("image")]
    assert len(images) == 6
    sizes = []
    for image in images:
        content = base64.b64decode(image.attrib["href"].partition(",")[2])
        sizes.append(Image.open(BytesIO(content)).size)
    # One pixel per connection, and the scales below.
    assert sorted(sizes) == [(4, 4), (6, 6), (6, 6), (33, 1), (33, 1), (33, 1)]
    assert all("pixelated" in image.attrib["style"] for image in images)


def test_full_shade_ignores_single_extremes() -> None:
    matrix = np.full((100, 100), 0.1)
    matrix[3, 4] = matrix[4, 3] = 50.0
    assert shade_limit(matrix) == pytest.approx(0.1)
    assert shade_limit(np.zeros((4, 4))) == 1.0
