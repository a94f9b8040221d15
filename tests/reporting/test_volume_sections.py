from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from html import unescape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from medformer.crossval.run.collect import write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.data.volumes.plan.volume_plan import read_volume_plan, write_volume_plan
from medformer.errors import DataError
from medformer.evaluation.schema import metrics_schema
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, read_json, write_csv, write_json, write_text
from medformer.reporting.figures.intervals import AgreementPanel, bland_altman
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.report import build_report
from medformer.reporting.sections import SECTIONS, segmentation

Copy = Callable[[], RunDirectory]
HOSTILE = "<i onclick=alert(1)>Posterior</i> $x$"


@pytest.fixture(scope="module")
def report(segmented_volumes: Path) -> str:
    return build_report(segmented_volumes / "run").read_text("utf-8")


@pytest.fixture
def copy(segmented_volumes: Path, tmp_path: Path) -> Copy:
    """Gives a copy of the run to change."""

    def give() -> RunDirectory:
        shutil.copytree(segmented_volumes / "run", tmp_path / "run")
        return RunDirectory.open(tmp_path / "run")

    return give


def part(report: str, key: str) -> str:
    """The text of a section, without its drawings."""
    found = re.search(rf'<section id="{key}".*?</section>', report, re.DOTALL)
    assert found is not None, key
    text = found.group().replace("<wbr>", "")
    return " ".join(unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", text, flags=re.DOTALL)).split())


def keys_of(run: FinishedRun) -> set[str]:
    """Which sections a run has."""
    return {section.key for section in SECTIONS if section.applies(run)}


def test_sections_of_volumes_come_in_reading_order(report: str) -> None:
    keys = re.findall(r'<section id="([^"]+)"', report)
    wanted = ["results", "labels", "agreement", "distribution", "gallery", "plan", "volume-plan", "learning"]
    assert [key for key in keys if key in wanted] == wanted
    assert "lesions" not in keys


def test_other_runs_have_no_section_of_volumes(finished: Path, classified: Path) -> None:
    for path in (finished / "run", classified):
        assert {"labels", "agreement", "volume-plan"}.isdisjoint(keys_of(read_finished_run(path)))


def test_the_numbers_follow_the_schema(segmented_volumes: Path) -> None:
    metrics = read_json(segmented_volumes / "run" / "metrics.json")
    assert not list(Draft202012Validator(metrics_schema()).iter_errors(metrics))


def test_every_label_has_a_row_of_its_own_numbers(report: str, segmented_volumes: Path) -> None:
    metrics = read_json(segmented_volumes / "run" / "metrics.json")
    text = part(report, "labels")
    for name, block in metrics["by_label"].items():
        dice = block["metrics"]["dice"]
        assert f"{name} {block['present']} {dice['mean']:.3f} {dice['low']:.3f} to {dice['high']:.3f}" in text
    assert "Mean NSD (2 mm)" in text
    # case05 and case08 miss the first label, case05 the second one, which case03 does not have.
    assert (metrics["by_label"]["Anterior"]["missed"], metrics["by_label"][HOSTILE]["missed"]) == (2, 1)
    assert f"The number of a volume is the mean over its 2 labels: Anterior, {HOSTILE}." in part(report, "summary")


def test_a_label_map_is_not_said_to_have_a_threshold_or_pixels(report: str) -> None:
    for key in ("plan", "learning", "results", "limits", "labels"):
        text = part(report, key)
        assert "hreshold" not in text and "ixel" not in text, key
    assert "Voxel sensitivity" in part(report, "results")
    assert "mean over the labels of a volume" in part(report, "results")
    assert "a mean over labels hides the difficult one" in part(report, "limits")


def test_agreement_is_told_in_the_label_s_own_digits(report: str, segmented_volumes: Path) -> None:
    found = read_json(segmented_volumes / "run" / "metrics.json")["by_label"]["Anterior"]["volume"]["agreement"]
    text = part(report, "agreement")
    limits = [f"{found[name]['value']:+.3f}".replace("-", "−") for name in ("lower", "upper")]
    assert f"{limits[0]} to {limits[1]}" in text
    assert "Bland and Altman" in text
    drawn = re.search(r'<section id="agreement".*?(<svg.*?</svg>)', report, re.DOTALL)
    assert drawn is not None and "predicted − reference (ml)" in drawn.group(1)
    for mean, places in ((0.05, 4), (0.6, 3), (1.5, 3), (12.0, 2), (150.0, 1), (3000.0, 0), (float("nan"), 3)):
        assert segmentation.digits({"truth_ml": {"mean": mean}}) == places


@pytest.mark.usefixtures("undrawn")
def test_plans_that_read_the_same_share_a_column(report: str, copy: Copy) -> None:
    text = part(report, "volume-plan")
    assert "The folds differ as the table shows" in text and "Fold 0 Folds 1, 2" in text
    assert "1.00 × 1.00 × 1.50 mm 1.00 × 1.00 × 1.60 mm" in text
    assert "in all 8 × 8 × 4" in text and "1.3 GB" in text and "volumes smaller than the patch are padded" in text
    run = copy()
    write_volume_plan(run.fold(0) / "plan.json", read_volume_plan(run.fold(1) / "plan.json"))
    assert "What All folds Orientation" in part(build_report(run.path).read_text("utf-8"), "volume-plan")
    write_text(run.fold(0) / "plan.json", "{}")
    with pytest.raises(DataError, match=r"plan\.json is no volume plan"):
        read_finished_run(run.path)


def pictures(report: str) -> list[tuple[str, np.ndarray]]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="(case\d\d)', report)
    return [(name, np.asarray(Image.open(BytesIO(base64.b64decode(text))))) for text, name in found]


def test_the_gallery_shows_three_planes_with_lines_and_fills(report: str) -> None:
    text = part(report, "gallery")
    assert "Lines are the prediction and transparent fills the reference" in text
    assert "nothing marked" in text and "There is 1, shown above." in text
    assert f"Dice of Anterior 0.000, {HOSTILE}" in text
    shown = dict(pictures(report))
    assert "case05" in shown and len(shown) == 12
    for picture in shown.values():
        height, width = picture.shape[:2]
        assert width > 1.7 * height
        orange = (picture[..., 0].astype(int) - picture[..., 2] > 60).mean()
        blue = (picture[..., 2].astype(int) - picture[..., 0] > 40).mean()
        assert orange > 0.01 and blue > 0.01
    assert 'class="gallery wide"' in report


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("broken", ["missing", "damaged", "size", "outside"])
def test_a_label_map_that_cannot_be_drawn_leaves_a_reason(copy: Copy, broken: str, segmented_volumes: Path) -> None:
    run = copy()
    files = sorted(run.masks.glob("*.nii.gz"))
    reason = "the exported mask is not there any more"
    if broken == "outside":
        rows = read_csv(run.oof_csv)
        for row in rows:
            row["mask"] = str(segmented_volumes / "data" / "labels" / f"{row['id']}.nii.gz")
        write_csv(run.oof_csv, rows, list(rows[0]))
    for file in files:
        if broken == "missing":
            file.unlink()
        elif broken == "damaged":
            file.write_bytes(file.read_bytes()[:80])
            reason = file.name
        elif broken == "size":
            import nibabel as nib

            nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), file)
            reason = "differ in size"
    text = build_report(run.path).read_text("utf-8")
    assert not pictures(text) and reason in part(text, "gallery")


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_plans_names_labels_by_their_values(copy: Copy) -> None:
    run = copy()
    for fold in range(3):
        (run.fold(fold) / "plan.json").unlink()
    text = build_report(run.path).read_text("utf-8")
    assert len(pictures(text)) == 12 and 'id="volume-plan"' not in text


@pytest.mark.usefixtures("undrawn")
def test_pretraining_of_volumes_is_held_against_the_mean_of_what_is_visible(copy: Copy) -> None:
    run = copy()
    write_text(run.config_yaml, run.config_yaml.read_text("utf-8") + "pretraining:\n  ratio: 0.6\n")
    write_json(run.run_json, {**read_json(run.run_json), "config_sha256": ""})
    for fold in range(3):
        record = {"masked_mse": 0.3 + 0.1 * fold, "mean_visible_mse": 1.0, "hidden": 1000, "patches": 8}
        write_json(run.fold(fold) / "pretraining.json", record)
    text = part(build_report(run.path).read_text("utf-8"), "pretraining")
    assert "trained to reconstruct blocks of voxels (60%) that were hidden from it" in text
    assert "Fold Patches Error, network Error, mean visible voxel Explained 0 8 0.3000 1.0000 70.0%" in text
    assert "All 24 0.4000 1.0000 60.0%" in text and "connection" not in text and "subject" not in text


@pytest.mark.usefixtures("undrawn")
def test_one_label_needs_no_figure_of_labels(copy: Copy) -> None:
    run = copy()
    rows = [{key: value for key, value in row.items() if HOSTILE not in key} for row in read_csv(run.oof_csv)]
    write_csv(run.oof_csv, rows, list(rows[0]))
    write_metrics(run, summarize)
    section = re.search(r'<section id="labels".*?</section>', build_report(run.path).read_text("utf-8"), re.DOTALL)
    assert section is not None and "<table" in section.group() and "<figure" not in section.group()


def test_a_label_that_no_case_has_is_compared_with_nothing(copy: Copy) -> None:
    run = copy()
    metrics = read_json(run.metrics_json)
    for block in metrics["by_label"].values():
        block["volume"]["agreement"] |= {"n": 0}
    write_json(run.metrics_json, metrics)
    assert "agreement" not in keys_of(read_finished_run(run.path))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_agreement_is_drawn_for_any_number_of_labels_and_repeats_byte_for_byte(count: int) -> None:
    nan = float("nan")
    panel = AgreementPanel("a", [1.0, 2.0], [0.1, -0.2], -0.05, (-0.4, 0.3), [(-0.5, -0.3), (-0.1, 0.1), (0.2, 0.4)])
    bare = AgreementPanel("b", [1.0], [0.1], 0.1, (nan, nan), [(nan, nan)] * 3)
    panels = [panel, bare, panel, bare, panel][:count]
    assert bland_altman("key", panels) == bland_altman("key", panels)
    assert "var(--series-0)" in bland_altman("key", panels) and "nan" not in bland_altman("key", panels).lower()
