from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from medformer.crossval.collect import write_metrics
from medformer.crossval.run_directory import RunDirectory
from medformer.errors import ConfigError, DataError
from medformer.evaluation.summary import summarize
from medformer.files import read_json, write_csv, write_json, write_text
from medformer.reporting.report import build_report

CopyRun = Callable[[], RunDirectory]


class Page(HTMLParser):
    """The parsed report: tags with their attributes, ids, and the text of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        self.headings: list[str] = []
        self._section = ""
        self._heading = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._heading = tag in ("h1", "h2", "h3")
        if self._heading:
            self.headings.append(tag)
        if tag == "section":
            self._section = attributes["id"]

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data

    def named(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(build_report(finished / "run"))


def test_every_section_is_there_and_in_the_contents(page: Page) -> None:
    expected = ["summary", "results", "distribution", "strata", "gallery", "learning"]
    expected += ["audit", "plan", "setup", "reproduce", "limits"]
    assert list(page.sections) == expected
    links = [attributes["href"] for attributes in page.named("a")]
    assert links == ["#main", *(f"#{key}" for key in expected)]


def test_summary_says_what_a_clinician_asks(page: Page, finished: Path) -> None:
    text = page.sections["summary"]
    dice = read_json(finished / "run" / "metrics.json")["pooled"]["metrics"]["dice"]
    for part in (
        "meta_polyp with caformer_s18",
        "3-fold cross-validation on 24 images from 12 groups",
        f"{dice['mean']:.3f}",
        f"95% interval {dice['low']:.3f} to {dice['high']:.3f}",
        "The user accepted leaks between training and test data (near-duplicate:case00|case09: 1 finding",
        "On 1 image with foreground, nothing was marked",
        "1 image has no foreground in the reference",
        "The images are synthetic.",
    ):
        assert part in text


def test_tables_hold_the_numbers_of_metrics_json(page: Page, finished: Path) -> None:
    metrics = read_json(finished / "run" / "metrics.json")
    for part in [*metrics["by_fold"].values(), metrics["pooled"]]:
        assert f"{part['metrics']['dice']['mean']:.3f}" in page.sections["results"]
    for part in [*metrics["by_size"].values(), *metrics["by_site"].values()]:
        assert f"{part['metrics']['iou']['mean']:.3f}" in page.sections["strata"]
    for section, tables in (("results", 2), ("strata", 2)):
        assert page.sections[section].count("(empty-mask policy: one)") >= tables
    assert "'my config.yaml'" in page.sections["reproduce"]
    assert "not a medical device" in page.sections["limits"]
    assert "case09 (fold 0 test): images/<b>case09</b>.png" in page.sections["audit"]
    assert "48 x 60 px" in page.sections["audit"]
    assert "caformer_s18" in page.sections["setup"]


def test_nothing_is_requested_and_nothing_runs(page: Page, finished: Path) -> None:
    text = (finished / "run" / "report.html").read_text("utf-8")
    assert len(text) < 15_000_000
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "embed", "form", "base"})
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("data:", "#"))
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    policy = next(attributes["content"] for attributes in page.named("meta") if "http-equiv" in attributes)
    assert "default-src 'none'" in policy


def test_hostile_names_stay_text(page: Page) -> None:
    assert "<script>alert('site')</script>$x$" in page.sections["strata"]
    # Every image on the page is one of the gallery's.
    assert all(attributes["src"].startswith("data:image/jpeg;base64,") for attributes in page.named("img"))


def test_page_is_accessible_in_structure(page: Page) -> None:
    assert [attributes["lang"] for attributes in page.named("html")] == ["en"]
    for landmark in ("main", "nav", "header", "footer"):
        assert len(list(page.named(landmark))) == 1
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert all(attributes.get("alt") for attributes in page.named("img"))
    plots = [attributes for attributes in page.named("div") if attributes.get("class") == "plot"]
    assert len(plots) == 4
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 40 for attributes in plots)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referenced = re.findall(r"url\(#([^)]+)\)", " ".join(" ".join(a.values()) for _, a in page.tags))
    assert referenced
    assert set(referenced) <= set(ids)
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.named("th"))


def test_page_has_light_dark_and_print(finished: Path) -> None:
    text = (finished / "run" / "report.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    # Figures follow the theme: no color of theirs is fixed.
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawings)) <= {"#ffffff"}


def test_gallery_shows_worst_median_and_best_with_overlays(page: Page, finished: Path) -> None:
    text = page.sections["gallery"]
    worst, rest = text.split("Around the median")
    _, best = rest.split("Best")
    assert "case07" in worst
    assert "Dice 1.000, IoU 1.000" in best
    assert len(list(page.named("img"))) == 12


def test_building_again_gives_the_same_bytes(finished: Path) -> None:
    run = finished / "run"
    first = [(run / name).read_bytes() for name in ("report.html", "model_card.md")]
    build_report(run)
    assert [(run / name).read_bytes() for name in ("report.html", "model_card.md")] == first


def test_missing_pictures_leave_placeholders(run_copy: CopyRun, finished: Path, tmp_path: Path) -> None:
    run = run_copy()
    (run.masks / "case07.png").unlink()
    page = Page(build_report(run.path))
    assert "No picture of case07: the exported mask is not there any more." in page.sections["gallery"]
    record = read_json(run.run_json)
    write_json(run.run_json, {**record, "manifest": str(tmp_path / "gone.csv"), "data_root": str(tmp_path)})
    page = Page(build_report(run.path))
    assert not list(page.named("img"))
    assert "No picture of case07: the manifest is not available" in page.sections["gallery"]


def test_a_table_cannot_show_files_from_elsewhere(run_copy: CopyRun, finished: Path) -> None:
    run = run_copy()
    outside = finished / "data" / "masks" / "case07.png"
    assert outside.is_file()
    text = run.oof_csv.read_text("utf-8").replace("masks/case07.png", str(outside))
    write_text(run.oof_csv, text)
    write_metrics(run, summarize)
    page = Page(build_report(run.path))
    assert "No picture of case07" in page.sections["gallery"]


def test_a_bare_table_is_enough(run_copy: CopyRun) -> None:
    run = run_copy()
    for name in ("splits.json", "audit.json", "config.yaml"):
        (run.path / name).unlink()
    page = Page(build_report(run.path))
    assert {"plan", "learning"}.isdisjoint(page.sections)
    assert "leakage cannot be ruled out" in page.sections["audit"]


def test_numbers_that_could_not_be_computed_are_dashes(run_copy: CopyRun) -> None:
    run = run_copy()
    header, *lines = run.oof_csv.read_text("utf-8").splitlines()
    names = header.split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    blank = {name: "" for name in ("dice", "iou", "sensitivity", "precision")}
    write_csv(run.oof_csv, [{**row, **blank, "empty_policy": "nan"} for row in rows], names)
    write_metrics(run, summarize)
    page = Page(build_report(run.path))
    assert {"distribution", "gallery"}.isdisjoint(page.sections)
    assert "95% interval –" in page.sections["summary"]


def test_an_edited_table_is_called_out(run_copy: CopyRun) -> None:
    run = run_copy()
    write_text(run.oof_csv, run.oof_csv.read_text("utf-8").replace("case05,", "case5,"))
    assert "oof.csv was changed after metrics.json" in Page(build_report(run.path)).sections["summary"]


def test_a_failed_last_session_is_called_out(run_copy: CopyRun) -> None:
    run = run_copy()
    write_json(run.run_json, {**read_json(run.run_json), "state": "failed", "reason": "fold 2: loss is NaN"})
    text = Page(build_report(run.path)).sections["summary"]
    assert "last session ended as failed: fold 2: loss is NaN" in text


def test_what_is_no_finished_run_is_refused(run_copy: CopyRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        build_report(tmp_path / "nowhere")
    run = run_copy()
    write_text(run.metrics_json, "[1]")
    with pytest.raises(DataError, match="expected a JSON object"):
        build_report(run.path)
    run.oof_csv.unlink()
    with pytest.raises(DataError, match=r"oof\.csv is missing.*--resume"):
        build_report(run.path)


def test_model_card_has_front_matter_and_escapes_names(finished: Path) -> None:
    build_report(finished / "run")
    text = (finished / "run" / "model_card.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["pipeline_tag"] == "image-segmentation"
    dice = read_json(finished / "run" / "metrics.json")["pooled"]["metrics"]["dice"]["mean"]
    assert card["model-index"][0]["results"][0]["metrics"][0]["value"] == round(dice, 4)
    assert f"| Dice | {dice:.3f} |" in body
    assert "\\<script\\>" in body
    assert "<script>" not in body
    assert "not a medical device" in body
