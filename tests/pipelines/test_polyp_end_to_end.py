"""The whole way: a folder of frames becomes a manifest, a checked one, a cross-validation, masks, scores, a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medformer.crossval.plan import read_plan, write_plan
from medformer.crossval.run.collect import read_oof
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, read_json, sha256, write_json
from medformer.inference.score_table import add_curves
from medformer.tensor_file import count_floating

Medformer = Callable[..., Any]


def test_prepare_makes_a_manifest_that_check_accepts(medformer: Medformer, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hospital"
    shutil.copytree(data.parent / "images", folder / "images")
    shutil.copytree(data.parent / "masks", folder / "masks")
    manifest = folder / "cases.csv"

    refused = medformer("polyp", "prepare", folder, "--out", manifest)
    refused.refused(3, "16 of 16 images", "--group-pattern", "--ungrouped each")
    assert not manifest.exists()

    prepared = medformer("polyp", "prepare", folder, "--out", manifest, "--group-pattern", r"^(p\d+)_")
    assert prepared.code == 0, prepared.err
    assert "16 cases of 8 groups from 1 dataset" in prepared.out
    rows = read_csv(manifest)
    assert len(rows) == 16
    assert {row["group"] for row in rows} == {f"hospital/p{group:03d}" for group in range(8)}
    assert all(row["sha256"] == sha256(folder / row["image"]) for row in rows)

    out = tmp_path / "checked"
    checked = medformer("polyp", "check", manifest, "--out", out)
    assert checked.code == 0, checked.err
    assert "16 cases, 0 cannot be used" in checked.out and "No leak between 8 groups" in checked.out
    assert read_json(out / "audit.json")["findings"] == []


def test_a_cross_validation_leaves_everything_that_is_promised(finished: Path, data: Path) -> None:
    record = read_json(finished / "run.json")
    assert record["state"] == "done"
    assert [session["state"] for session in record["sessions"]] == ["done"]
    assert record["sessions"][0]["command"][:3] == ["medformer", "polyp", "crossval"]
    assert record["seed"] == 0 and "torch" in record["sessions"][0]["versions"]
    plan, audit = read_json(finished / "splits.json"), read_json(finished / "audit.json")
    assert audit["findings"] == [] and audit["cases"] == 16
    assert sorted(name for fold in plan["folds"] for name in fold["test"]) == sorted(ids(data))
    for fold in plan["folds"]:
        parts = {part: {name[:4] for name in fold[part]} for part in ("train", "validation", "test")}
        assert all(parts.values())
        assert not parts["train"] & parts["test"] and not parts["validation"] & parts["test"]
        assert not parts["train"] & parts["validation"]
        folder = finished / "folds" / str(fold["index"])
        names = {"history.csv", "model.safetensors", "state.safetensors", "threshold.json", "predictions.csv"}
        assert names <= {file.name for file in folder.iterdir()}
        assert len(read_csv(folder / "history.csv")) == 2
    for name in ("config.yaml", "report.html", "model_card.md"):
        assert (finished / name).stat().st_size > 0
    assert not list(finished.rglob(".*"))


def test_the_table_has_one_row_per_case_and_is_the_source_of_every_number(finished: Path, data: Path) -> None:
    rows = read_csv(finished / "oof.csv")
    assert [row["id"] for row in rows] == ids(data)
    folds = {name: fold["index"] for fold in read_json(finished / "splits.json")["folds"] for name in fold["test"]}
    assert {row["id"]: int(row["fold"]) for row in rows} == folds
    numbers = read_json(finished / "metrics.json")
    assert numbers.pop("source") == {"file": "oof.csv", "sha256": sha256(finished / "oof.csv")}
    table = read_oof(finished / "oof.csv")
    # The curves of the cases lie beside the table.
    add_curves(finished / "oof.csv", table)
    assert numbers == strict(summarize(table, Bootstrap(resamples=200)))
    assert numbers["pooled"]["metrics"]["dice"]["mean"] == pytest.approx(np.mean([float(r["dice"]) for r in rows]))


def test_every_mask_is_its_images_size_and_agrees_with_the_table(finished: Path, data: Path) -> None:
    for row in read_csv(finished / "oof.csv"):
        mask = np.asarray(Image.open(finished / row["mask"]))
        assert mask.shape == (48, 64) and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        predicted, truth = mask == 255, np.asarray(Image.open(data.parent / row["truth"])) >= 128
        assert int(row["pred_px"]) == predicted.sum()
        dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-12)
        assert Image.open(finished / "overlays" / f"{row['id']}.png").size[0] >= 64
    assert len(list((finished / "masks").iterdir())) == 16


def test_predicted_masks_of_other_sizes_can_be_evaluated(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path
) -> None:
    images, truths, out = tmp_path / "images", tmp_path / "truths", tmp_path / "out"
    images.mkdir()
    truths.mkdir()
    sizes = {"p000_f00": (61, 47), "p001_f00": (200, 33), "p002_f00": (64, 48)}
    for name, size in sizes.items():
        Image.open(data.parent / "images" / f"{name}.jpg").resize(size).save(images / f"{name}.png")
        Image.open(data.parent / "masks" / f"{name}.png").resize(size, Image.Resampling.NEAREST).save(
            truths / f"{name}.png"
        )
    predicted = medformer("polyp", "predict", finished, images, "--out", out, "--probabilities", "npz")
    assert predicted.code == 0, predicted.err
    assert "3 masks from 2 networks" in predicted.out and "was trained on" not in predicted.out
    rows = {row["id"]: row for row in read_csv(out / "predictions.csv")}
    assert rows.keys() == sizes.keys()
    # The network was trained on frames of 64 x 48 pixels.
    assert "height in px 33 (training cases: 48)" in rows["p001_f00"]["outside"]
    assert rows["p002_f00"]["outside"] == "" and "p001_f00: outside-range" in predicted.out
    learned = [read_json(finished / "folds" / str(fold) / "threshold.json")["threshold"] for fold in range(2)]
    for name, (width, height) in sizes.items():
        mask = np.asarray(Image.open(out / rows[name]["mask_file"]))
        probability = np.load(out / rows[name]["probability_file"])["probability"]
        assert mask.shape == probability.shape == (height, width)
        assert float(rows[name]["threshold"]) == pytest.approx(np.mean(learned))
        assert ((mask == 255) == (probability >= np.mean(learned))).all()
        assert int(rows[name]["area_px"]) == (mask == 255).sum()

    command = ("polyp", "evaluate", "--predictions", out / "masks", "--masks", truths, "--out", tmp_path / "s")
    scored = medformer(*command, "--group-pattern", r"(.+)_f\d+")
    assert scored.code == 0, scored.err
    assert f"Report: {tmp_path / 's' / 'report.html'}" in scored.out
    scores = {row["id"]: row for row in read_csv(tmp_path / "s" / "scores.csv")}
    for name in sizes:
        mask, truth = (np.asarray(Image.open(file / f"{name}.png")) >= 128 for file in (out / "masks", truths))
        expected = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        assert float(scores[name]["dice"]) == pytest.approx(expected)
    assert "Dice at 0.5" in scored.out and "max E-measure" in scored.out


def test_predicting_again_replaces_what_was_there_only_when_asked(
    medformer: Medformer, finished: Path, data: Path, tmp_path: Path
) -> None:
    out, images = tmp_path / "out", data.parent / "images"
    assert medformer("polyp", "predict", finished, images / "p000_f00.jpg", "--out", out).code == 0
    medformer("polyp", "predict", finished, images / "p001_f00.jpg", "--out", out).refused(2, str(out), "--overwrite")
    again = medformer("polyp", "predict", finished, images / "p001_f00.jpg", "--out", out, "--overwrite")
    assert again.code == 0, again.err
    assert "was trained on 1 of 1 images, whose predictions are no test of it" in again.out
    assert f"{finished / 'oof.csv'} has their scores" in again.out
    assert sorted(file.name for file in out.rglob("*.png")) == ["p001_f00.png", "p001_f00.png"]
    assert [row["id"] for row in read_csv(out / "predictions.csv")] == ["p001_f00"]


def test_frames_without_a_polyp_are_trained_on_and_scored_under_the_stated_rule(
    medformer: Medformer, settings: tuple[str, ...], tmp_path: Path
) -> None:
    manifest = write_synthetic_colonoscopy(
        tmp_path / "data", groups=6, frames_per_group=2, size=(48, 64), seed=1, empty=0.3
    )
    checked = medformer("polyp", "check", manifest)
    assert checked.code == 0 and checked.out.count("empty-mask") == 4
    run = tmp_path / "run"
    command = ("polyp", "crossval", "--out", run, "--data", manifest, "--no-baselines", *settings)
    result = medformer(*command, report=False)
    assert result.code == 0, result.err
    without = [row for row in read_csv(run / "oof.csv") if row["size"] == "none"]
    assert len(without) == 4
    for row in without:
        assert float(row["dice"]) == (1.0 if row["pred_px"] == "0" else 0.0)
        assert row["empty_policy"] == "one"
    assert read_json(run / "metrics.json")["by_size"]["none"]["n"] == 4


def test_training_without_test_rows_gives_a_network_to_predict_with(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = medformer("polyp", "train", "--out", run, "--data", data, *settings)
    assert result.code == 0, result.err
    assert "no test rows" in result.out
    assert not (run / "oof.csv").exists() and read_json(run / "run.json")["state"] == "done"
    predicted = medformer("polyp", "predict", run, data.parent / "images" / "p003_f00.jpg", "--out", tmp_path / "out")
    assert predicted.code == 0, predicted.err
    medformer("report", run).refused(3, "training without test rows", "crossval")


def test_the_report_is_rebuilt_from_the_table_alone(medformer: Medformer, own_run: Path) -> None:
    before = {name: (own_run / name).read_bytes() for name in ("metrics.json", "report.html", "model_card.md")}
    assert f"{count_floating(own_run / 'folds/0/model.safetensors'):,} weights" in before["report.html"].decode()
    for file in own_run.rglob("*.safetensors"):
        file.unlink()
    for name in before:
        (own_run / name).unlink()
    result = medformer("report", own_run, drawn=True)
    assert result.code == 0, result.err
    assert {name: (own_run / name).read_bytes() for name in before} == before
    medformer("report", own_run, "--subgroups", "siz").refused(2, "siz", "size")
    result = medformer("report", own_run, "--subgroups", "size")
    assert result.code == 0, result.err
    by_size = read_json(own_run / "metrics.json")["by_covariate"]["size"]
    assert sum(part["n"] for part in by_size.values()) == read_json(own_run / "metrics.json")["n"]
    page = (own_run / "report.html").read_text("utf-8")
    assert "Results by size" in page and "Fewer than 10 groups" in page


def test_a_run_compared_with_itself_does_not_differ(medformer: Medformer, finished: Path, tmp_path: Path) -> None:
    result = medformer("compare", finished, finished, "--out", tmp_path)
    assert result.code == 0, result.err
    (comparison,) = read_json(tmp_path / "comparison.json")
    assert (comparison["difference"], comparison["low"], comparison["p"]) == (0.0, None, 1.0)
    assert comparison["bootstrap"]["no_interval"] == "nothing differs"
    assert "so there is nothing to test" in result.out and "0.000 to 0.000" not in result.out
    assert (comparison["cases"], comparison["groups"], comparison["folds_won"]) == (16, 8, 0)


def test_runs_of_different_plans_are_not_compared(medformer: Medformer, finished: Path, own_run: Path) -> None:
    plan = read_plan(own_run / "splits.json")
    write_plan(own_run / "splits.json", replace(plan, seed=plan.seed + 1))
    medformer("compare", finished, own_run).refused(2, str(finished), str(own_run), "different fold plans")


def test_an_edited_plan_is_noticed(medformer: Medformer, finished: Path, own_run: Path) -> None:
    content = read_json(own_run / "splits.json")
    content["folds"][0]["test"].append(content["folds"][0]["train"].pop())
    write_json(own_run / "splits.json", content)
    medformer("compare", finished, own_run).refused(3, "splits.json", "changed after it was written")


def ids(manifest: Path) -> list[str]:
    return [row["id"] for row in read_csv(manifest)]


def strict(content: Any) -> Any:
    """As JSON gives it back: NaN becomes None."""
    return json.loads(json.dumps(content).replace("NaN", "null"))


@pytest.mark.slow
def test_pranet_trains_by_its_recipe_and_segments(medformer: Medformer, data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    small = ("model.backbone=timm:test_efficientnet", "model.weights=null", "data.image_size=[64, 96]")
    short = ("training.epochs=2", "training.batch_size=4", "training.accelerator=cpu", "data.workers=0")
    trained = medformer("polyp", "train", "--config", "polyp/pranet", "--data", data, "--out", run, *small, *short)
    assert trained.code == 0, trained.err
    rows = read_csv(run / "folds" / "0" / "history.csv")
    cases = len(read_json(run / "splits.json")["folds"][0]["train"])
    # A step at each of the three scales for every full batch, and the last weights are kept.
    assert [int(row["steps"]) for row in rows] == [3 * (cases // 4), 6 * (cases // 4)]
    assert [row["lr"] for row in rows] == ["0.0001"] * 2 and rows[-1]["best"] == "1"
    predicted = medformer("polyp", "predict", run, data.parent / "images", "--out", out)
    assert predicted.code == 0, predicted.err
    assert len(read_csv(out / "predictions.csv")) == 16
