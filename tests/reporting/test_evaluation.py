"""The page of a scored folder: label names, intervals over groups, every case, and what was left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.summary import summarize
from medformer.reporting.evaluation import render_evaluation, write_evaluation

LABELS = {1: "liver", 2: "<b>tumor</b>"}


@pytest.fixture
def rows() -> list[dict[str, object]]:
    draw = np.random.default_rng(0)
    made = []
    for number in range(6):
        truth = np.zeros((8, 8, 8), np.uint8)
        truth[1:4, 1:6], truth[4:7, 1:6] = 1, 2
        found = np.where(draw.random(truth.shape) < 0.1 * number, 0, truth).astype(np.uint8)
        row = volume_row(f"scan {number}", found, truth, labels=LABELS, spacing=(1.0, 1.0, 1.0))
        made.append({"id": row["id"], "group": f"patient {number // 2}", **row})
    return made


def test_the_page_names_labels_groups_and_cases(rows: list[dict[str, object]], tmp_path: Path) -> None:
    summary = summarize(rows, Bootstrap(resamples=100))
    path = write_evaluation(tmp_path, rows, summary, task="volume", predictions="model <i>A</i>", unpaired={})
    page = path.read_text("utf-8")
    assert "<h1>Evaluation of model &lt;i&gt;A&lt;/i&gt;</h1>" in page
    assert "6 volumes from 3 groups" in " ".join(page.split())
    assert "liver" in page and "&lt;b&gt;tumor&lt;/b&gt;" in page and "<b>tumor" not in page
    cases = page[page.index('<section id="cases"') :]
    # The worst first.
    assert cases.index("scan 5") < cases.index("scan 4") < cases.index("scan 0")
    assert "patient 2" in cases
    assert {"results", "labels", "agreement", "distribution"} <= {
        part.split('"')[0] for part in page.split('<section id="')[1:]
    }
    assert "come from only 3 groups" in page and str(tmp_path) not in page


def test_the_page_says_what_was_left_out_and_what_is_not_known(rows: list[dict[str, object]], tmp_path: Path) -> None:
    alone = [{name: value for name, value in row.items() if name != "group"} for row in rows]
    page = render_evaluation(
        tmp_path,
        alone,
        summarize(alone, Bootstrap(resamples=100)),
        task="volume",
        predictions="A",
        unpaired={"prediction": ["scan 8", "scan 9"]},
    )
    text = " ".join(page.split())
    assert "2 names without a prediction were left out" in text and "<li>scan 9</li>" in text
    assert "No patients are known: intervals are over volumes" in text
