from __future__ import annotations

import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from undrawn import undrawn

import medformer
from medformer.crossval.plan import read_plan
from medformer.crossval.run.collect import write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, DataError
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, read_json, write_csv, write_json, write_text
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.report import build_model_card, build_report
from medformer.reporting.sections import facts_of, gallery

CopyRun = Callable[[], RunDirectory]
OF_MEMORY = 4
"""Pictures of the section on the memory: a test case, two regions and a scene."""


class Page(HTMLParser):
    """The parsed report: tags with their attributes, ids, and the text of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.header_cells: list[str] = []
        self._section = ""
        self._tag = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self._tag = "column" if attributes.get("scope") == "col" else tag
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "section":
            self._section = attributes["id"]

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            self.scripts[-1] += data
        elif self._tag == "column":
            self.header_cells.append(data)
        if self._section and self._tag != "script":
            text = self.sections.get(self._section, "") + data
            # As a browser shows it: line breaks of the source are spaces.
            self.sections[self._section] = re.sub(r"[ \n]+", " ", text)

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""
        if tag == "section":
            self._section = ""

    def named(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(build_report(finished / "run"))


def test_every_section_is_there_and_in_the_contents(page: Page) -> None:
    expected = ["summary", "results", "distribution", "lesions", "subgroups", "gallery", "memory"]
    expected += [
        "audit",
        "baselines",
        "canary",
        "site-probe",
        "data",
        "plan",
        "start",
        "learning",
        "setup",
        "reproduce",
        "limits",
        "checklist",
    ]
    assert list(page.sections) == expected
    links = [attributes["href"] for attributes in page.named("a")]
    checks = ["#audit", "#baselines", "#canary", "#site-probe"]
    assert links == ["#main", *(f"#{key}" for key in expected), *checks]


def test_summary_says_what_a_clinician_asks(page: Page, finished: Path) -> None:
    text = page.sections["summary"]
    dice = read_json(finished / "run" / "metrics.json")["pooled"]["metrics"]["dice"]
    for part in (
        "meta_polyp with caformer_s18",
        "3-fold cross-validation on 24 images from 12 groups",
        f"{dice['mean']:.3f}",
        f"95% interval {dice['low']:.3f} to {dice['high']:.3f}",
        "2 of 24",
        "Leakage audit: the user accepted leaks between training and test data",
        "(near-duplicate:case00|case09: 1 finding). The numbers may be too good.",
        "Comparison with baselines: the model is better: mean Dice",
        "of prior_mask, the best of 2 baselines; lead +",
        "Permuted labels: at chance, but with so few cases a leak would not show",
        "Site probe: the site cannot be predicted better than by chance (balanced accuracy 0.550",
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
        assert f"{part['metrics']['iou']['mean']:.3f}" in page.sections["subgroups"]
        assert f"{part['metrics']['nsd_px']['mean']:.3f}" in page.sections["subgroups"]
    lesions = metrics["pooled"]["lesions"]
    assert f"Of {lesions['true']} lesions in the reference, {lesions['hit']} were found" in page.sections["lesions"]
    assert f"{lesions['f1']:.3f}" in page.sections["lesions"]
    assert "Of 1 image without a lesion, 0 have something marked" in page.sections["lesions"]
    for name, run in RunDirectory.open(finished / "run").baselines.items():
        dice = read_json(run.metrics_json)["pooled"]["metrics"]["dice"]
        assert f"{name}{dice['mean']:.3f}{dice['low']:.3f} to {dice['high']:.3f}" in page.sections["baselines"]
    assert "'my config.yaml'" in page.sections["reproduce"]
    assert "not a medical device" in page.sections["limits"]
    assert "case09 (fold 0 test): images/<b>case09</b>.png" in page.sections["audit"]
    assert "48 x 60 px" in page.sections["audit"]
    assert "caformer_s18" in page.sections["setup"]


def test_columns_of_dice_and_iou_name_the_rule_for_empty_masks(page: Page) -> None:
    titled = [name for name in page.header_cells if re.search(r"\b(Dice|IoU)\b", name)]
    assert len(titled) >= 10
    # Training scores and the canary's come from elsewhere, under the rules named there.
    assert {name for name in titled if "(both empty:\u00a01)" not in name} == {"Best inner-validation Dice", "Dice"}


def test_nothing_is_requested_and_nothing_runs_but_our_script(page: Page, finished: Path) -> None:
    text = (finished / "run" / "report.html").read_text("utf-8")
    assert len(text) < 15_000_000
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "form", "base"})
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("data:", "#"))
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    ours = (Path(medformer.__file__).parent / "reporting" / "templates" / "report.js").read_text("utf-8")
    assert len(ours.splitlines()) < 60
    assert page.scripts == [ours]
    assert list(page.named("script")) == [{}]
    policy = next(attributes["content"] for attributes in page.named("meta") if "http-equiv" in attributes)
    digest = b64encode(sha256(ours.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_hostile_names_stay_text(page: Page) -> None:
    assert "<script>alert('site')</script>$x$" in page.sections["subgroups"]
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
    assert len(plots) == 7
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
    assert "nothing marked" in worst
    assert "Dice 1.000, IoU 1.000" in best
    assert "There are 2, all shown above." in text
    assert len(list(page.named("img"))) == 12 + OF_MEMORY


def test_what_a_memory_retrieved_stands_beside_the_case(page: Page, finished: Path) -> None:
    fold = read_plan(finished / "run/splits.json").folds[0]
    text = page.sections["memory"]
    assert f"{fold.test[0]}, fold 0" in text and "For 1 test case, this run wrote down" in text
    first, second, third = fold.train[:3]
    assert f"{first}Region, background · 50%" in text and f"{second}Region, lesion · 50%" in text
    assert f"{third}Scene · 75%" in text
    alts = [attributes["alt"] for attributes in page.named("img")]
    assert f"{first} with its reference and the place of a stored latent." in alts


def fail_all(run: RunDirectory) -> list[str]:
    """Make the images misses, false alarms and outlines beside the lesion, in turn; returns their ids."""
    rows = read_csv(run.oof_csv)
    for index, row in enumerate(rows):
        kind = index % 3
        row |= {"truth_px": "0" if kind == 1 else "50", "pred_px": "0" if kind == 0 else "60", "dice": "0.0"}
    write_csv(run.oof_csv, rows, list(rows[0]))
    write_metrics(run, summarize)
    return [row["id"] for row in rows]


@pytest.mark.usefixtures("undrawn")
def test_every_failure_is_shown_by_kind(run_copy: CopyRun) -> None:
    run = run_copy()
    failed = fail_all(run)
    page = Page(build_report(run.path))
    text = page.sections["gallery"]
    assert "There are 24; 12 of them are shown above and not repeated." in text
    for kind in ("nothing marked on a lesion", "something marked where there is no lesion", "Dice below 0.1"):
        assert f"Failures: {kind}" in text
    assert sorted(re.findall(r"case\d\d", text)) == sorted(failed)
    assert len(list(page.named("img"))) == 24 + OF_MEMORY
    assert "24 of 24" in page.sections["summary"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("bound", "value", "shown"), [("MOST_PICTURES", 16, 16), ("MOST_BYTES", 1, 12)])
def test_failures_beyond_the_bound_are_counted_and_named(
    run_copy: CopyRun, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, shown: int
) -> None:
    run = run_copy()
    failed = fail_all(run)
    monkeypatch.setattr(gallery, bound, value)
    page = Page(build_report(run.path))
    text = page.sections["gallery"]
    assert len(list(page.named("img"))) == shown + OF_MEMORY
    assert f"{24 - shown} failures are not shown: this page holds at most" in text
    assert "in the folder overlays of the run" in text
    assert len(re.findall(r"case\d\d", text.split("The failures that are not shown")[1])) == 24 - shown
    assert sorted(re.findall(r"case\d\d", text)) == sorted(failed)


def test_building_again_gives_the_same_bytes(finished: Path) -> None:
    run = finished / "run"
    first = [(run / name).read_bytes() for name in ("report.html", "model_card.md")]
    build_report(run)
    assert [(run / name).read_bytes() for name in ("report.html", "model_card.md")] == first


def data_gone(run: RunDirectory, tmp_path: Path) -> None:
    record = read_json(run.run_json)
    write_json(run.run_json, {**record, "manifest": str(tmp_path / "gone.csv"), "data_root": str(tmp_path)})


@pytest.mark.usefixtures("undrawn")
def test_missing_pictures_leave_placeholders(run_copy: CopyRun, finished: Path, tmp_path: Path) -> None:
    run = run_copy()
    (run.masks / "case07.png").unlink()
    page = Page(build_report(run.path))
    assert "No picture of case07: the exported mask is not there any more." in page.sections["gallery"]
    data_gone(run, tmp_path)
    shutil.rmtree(run.gallery)
    page = Page(build_report(run.path))
    assert not list(page.named("img"))
    assert "No picture of case06: the manifest is not available" in page.sections["gallery"]


@pytest.mark.usefixtures("undrawn")
def test_the_pictures_are_the_same_without_the_data(run_copy: CopyRun, tmp_path: Path) -> None:
    run = run_copy()
    with_data = Page(build_report(run.path))
    data_gone(run, tmp_path)
    without = Page(build_report(run.path))
    assert list(without.named("img")) == list(with_data.named("img")) != []
    assert without.sections["gallery"] == with_data.sections["gallery"]
    # A mask that is another one has no picture yet.
    shutil.copy(run.masks / "case06.png", run.masks / "case07.png")
    assert "No picture of case07: the manifest is not available" in Page(build_report(run.path)).sections["gallery"]


@pytest.mark.usefixtures("undrawn")
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
    blank = {name: "" for name in ("dice", "iou", "sensitivity", "precision", "hd95_px")}
    write_csv(run.oof_csv, [{**row, **blank, "empty_policy": "nan"} for row in rows], names)
    write_metrics(run, summarize)
    page = Page(build_report(run.path))
    assert "distribution" not in page.sections
    # What counts areas still finds the failure.
    assert "case07Dice –, IoU –" in page.sections["gallery"]
    assert "95% interval –" in page.sections["summary"]


@pytest.mark.usefixtures("undrawn")
def test_an_edited_table_is_called_out(run_copy: CopyRun) -> None:
    run = run_copy()
    write_text(run.oof_csv, run.oof_csv.read_text("utf-8").replace("case05,", "case5,"))
    assert "oof.csv was changed after metrics.json" in Page(build_report(run.path)).sections["summary"]


@pytest.mark.usefixtures("undrawn")
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
    with pytest.raises(DataError, match=r"metrics.json is damaged: .*expected keys and values"):
        build_report(run.path)
    run.oof_csv.unlink()
    with pytest.raises(DataError, match=r"oof\.csv is missing.*--resume"):
        build_report(run.path)


def model_card(run: Path) -> str:
    """The card that is built beside the report, without the report."""
    finished = read_finished_run(run)
    with undrawn():
        return build_model_card(finished, facts_of(finished, for_card=True))


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_model_card_is_one_that_the_hub_reads(finished: Path, classified: Path, kind: str) -> None:
    run = {"segmentation": finished / "run", "classification": classified}[kind]
    card = huggingface_hub.ModelCard(model_card(run))
    assert card.data.license == "unknown"
    assert card.data.library_name == "medformer"
    assert card.data.pipeline_tag in {"image-segmentation", "tabular-classification"}
    assert {"medical-imaging", kind} <= set(card.data.tags or [])
    results = card.data.eval_results or []
    metrics = read_json(run / "metrics.json")["pooled"]["metrics"]
    values = {result.metric_type: result.metric_value for result in results}
    if kind == "segmentation":
        assert values == {"dice": round(metrics["dice"]["mean"], 4), "mean_iou": round(metrics["iou"]["mean"], 4)}
    else:
        assert values["roc_auc"] == round(metrics["auc"]["value"], 4)
        assert values["recall"] == round(metrics["sensitivity"]["value"], 4)
    for result in results:
        assert result.task_type == card.data.pipeline_tag
        assert result.dataset_name and result.dataset_type
    # What the hub would write back is what is there.
    assert (
        yaml.safe_load(card.data.to_yaml())["model-index"]
        == yaml.safe_load(card.content.split("---")[1])["model-index"]
    )


def test_model_card_escapes_names(finished: Path) -> None:
    _, _, body = model_card(finished / "run").split("---\n", 2)
    dice = read_json(finished / "run" / "metrics.json")["pooled"]["metrics"]["dice"]
    assert f"| Dice (both empty: 1) | {dice['mean']:.3f} | {dice['low']:.3f} to {dice['high']:.3f} |" in body
    assert "\\<script\\>" in body
    assert "<script>" not in body
    assert "near-duplicate:case00\\|case09" in body
    assert "not a medical device" in body


def test_a_classification_has_curves_and_no_masks(classified: Path) -> None:
    page = Page(build_report(classified))
    metrics = read_json(classified / "metrics.json")
    pooled = metrics["pooled"]["metrics"]
    assert {"distribution", "lesions", "learning"}.isdisjoint(page.sections)
    summary = page.sections["summary"]
    assert "5-fold cross-validation on 150 subjects, 3 sites" in summary
    for name in ("auc", "sensitivity", "specificity"):
        value = pooled[name]
        assert f"{value['value']:.3f}95% interval {value['low']:.3f} to {value['high']:.3f}" in summary
    assert "Permuted labels: nothing is learned from them, as expected without a leak" in summary
    assert (
        "Caution. Site probe: the site can be predicted from what the model is given (balanced accuracy 0.710"
        in summary
    )
    (curves,) = [a["aria-label"] for a in page.named("div") if a.get("aria-label", "").startswith("Three curves")]
    assert f"AUC {pooled['auc']['value']:.3f}" in curves
    rows = read_csv(classified / "oof.csv")
    called = sum(row["label"] == "1" and row["prediction"] == "1" for row in rows)
    assert f"Positive{called}{75 - called}{called / 75:.3f}" in page.sections["ranking"]
    for column in ("site", "sex", "age"):
        for part in metrics[f"by_{column}"].values():
            assert f"{part['metrics']['auc']['value']:.3f}" in page.sections["subgroups"]
    assert page.sections["baselines"].count("5 of 5") or "Folds won" in page.sections["baselines"]
    wrong = [row for row in rows if row["prediction"] != row["label"]]
    assert f"{len(wrong)} subjects of 150 are on the wrong side of the threshold" in page.sections["gallery"]


@pytest.mark.usefixtures("undrawn")
def test_a_probe_without_sites_to_tell_apart_says_so(run_copy: CopyRun) -> None:
    run = run_copy()
    write_json(run.site_probe_json, {"applicable": False, "left_out": [], "text": "There is nothing to tell apart."})
    page = Page(build_report(run.path))
    assert "Site probe: whether the site can be predicted was not tested" in page.sections["summary"]
    assert "There is nothing to tell apart." in page.sections["site-probe"]


@pytest.mark.usefixtures("undrawn")
def test_a_loud_canary_is_called_a_leak(tmp_path: Path, classified: Path) -> None:
    shutil.copytree(classified, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    shutil.copy(run.oof_csv, run.canary.oof_csv)
    shutil.copy(run.metrics_json, run.canary.metrics_json)
    page = Page(build_report(run.path))
    assert "Caution. Permuted labels: a leak is suspected" in page.sections["summary"]
    assert "Leak suspected" in page.sections["canary"]


@pytest.mark.usefixtures("undrawn")
def test_a_baseline_that_cannot_be_compared_says_why(run_copy: CopyRun) -> None:
    run = run_copy()
    sub = run.baseline("prior_mask")
    rows = read_csv(sub.oof_csv)
    write_csv(sub.oof_csv, rows[1:], list(rows[0]))
    text = Page(build_report(run.path)).sections["baselines"]
    assert "prior_mask was not compared: " in text
    assert "Over everything: " in text


@pytest.mark.usefixtures("undrawn")
def test_the_drawing_of_baselines_is_described_in_words(run_copy: CopyRun) -> None:
    run = read_finished_run(run_copy().path)
    compared, _ = run.comparisons
    lead = compared["prior_mask"]
    numbers = [f"{number:+.3f}".replace("-", "−") for number in (lead.difference, lead.low, lead.high)]
    (found,) = re.findall(r'aria-label="(Differences in [^"]*)"', build_report(run.folder.path).read_text("utf-8"))
    described = f"the model against prior_mask: {numbers[0]}, 95% interval {numbers[1]} to {numbers[2]}"
    assert found.startswith("Differences in mean Dice.") and described in found


def test_a_run_of_an_earlier_version_still_has_a_report(run_copy: CopyRun) -> None:
    run = run_copy()
    for name in ("baselines", "canary"):
        shutil.rmtree(run.path / name)
    run.site_probe_json.unlink()
    later = {"hd95_px", "nsd_px", "nsd_tolerance_px", "lesions_true", "lesions_pred", "lesions_hit", "fp_px"}
    rows = [{key: cell for key, cell in row.items() if key not in later} for row in read_csv(run.oof_csv)]
    write_csv(run.oof_csv, rows, list(rows[0]))
    write_metrics(run, summarize)
    metrics = read_json(run.metrics_json)
    old = {key: part for key, part in metrics.items() if key not in ("format", "kind", "by_repeat", "by_sex", "by_age")}
    for block in [old["pooled"], *old["by_fold"].values(), *old["by_site"].values(), *old["by_size"].values()]:
        for key in ("lesions", "negatives", "missed"):
            block.pop(key, None)
    write_json(run.metrics_json, old)
    page = Page(build_report(run.path))
    assert {"lesions", "baselines", "canary", "site-probe"}.isdisjoint(page.sections)
    assert "No baseline was run on the same folds" in page.sections["limits"]
    assert "No permuted labels were run" in page.sections["limits"]
