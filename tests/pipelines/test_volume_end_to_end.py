"""Volumes from files to report: label maps on the grid of their images, plans from training cases, resuming, errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundles import files_of, folders_told, moved_bundle, private_names, told

import medformer as mf
from medformer.crossval.plan import read_plan as read_folds
from medformer.data.manifest import read_manifest
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.files import read_csv, read_json
from medformer.models.backbone.variants import build_backbone
from medformer.training.loop import Loop

Medformer = Callable[..., Any]

SMALL = (
    "model.backbone=tiny",
    "plan.patch=[16, 16, 16]",
    "plan.batch_size=2",
    "training.epochs=2",
    "training.lr=3e-3",
    "data.patches=1",
    "data.workers=0",
    "crossval.folds=2",
    "inference.overlap=0.25",
)
CLASSES = "model.backbone=tiny_classes"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of ten small brains, of eight patients."""
    return write_synthetic_volumes(tmp_path_factory.mktemp("volumes"), cases=10, spacing=12.0)


@pytest.fixture(scope="module")
def run(medformer: Medformer, volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cross-validation."""
    out = tmp_path_factory.mktemp("run") / "run"
    result = medformer("volume", "crossval", "--data", volumes, "--out", out, *SMALL, drawn=True)
    assert result.code == 0, result.err
    return out


def test_every_case_gets_a_label_map_on_the_grid_of_its_image(run: Path, volumes: Path) -> None:
    rows = {row["id"]: row for row in read_csv(run / "oof.csv")}
    cases = read_manifest(volumes).cases
    assert set(rows) == {case.id for case in cases}
    for case in cases:
        image, found = nib.load(case.image), nib.load(run / rows[case.id]["mask"])
        assert found.shape == image.shape
        assert np.array_equal(found.affine, image.affine)
        for code in ("sform_code", "qform_code"):
            assert int(found.header[code]) == int(image.header[code])
        assert found.get_data_dtype() == np.uint8
        assert set(np.unique(np.asanyarray(found.dataobj))) <= {0, 1, 2, 3}
    for label in ("gray matter", "white matter", "lesion"):
        assert all(0.0 <= float(row[f"dice:{label}"]) <= 1.0 for row in rows.values())


def test_the_numbers_and_the_report_are_there_for_each_label(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert set(metrics["by_label"]) == {"gray matter", "white matter", "lesion"}
    page = (run / "report.html").read_text("utf-8")
    for words in ("Volume agreement", "How volumes are prepared", "gray matter", "prior_mask"):
        assert words in page
    assert not (run / "cache").exists(), "prepared volumes are removed from a finished run"


def test_report_and_card_hold_no_folder(run: Path) -> None:
    assert not folders_told(run)


def test_a_bundle_far_from_its_run_segments_as_the_run_does(
    run: Path, volumes: Path, tmp_path: Path, medformer: Medformer
) -> None:
    bundle = moved_bundle(medformer, run, tmp_path)
    image = read_manifest(volumes).cases[0].required_image()
    for model, out in ((run, "by_run"), (bundle, "by_bundle")):
        result = medformer("volume", "predict", model, image, "--out", tmp_path / out)
        assert result.code == 0 and f"{model.name} was trained on 1 of 1 volumes" in result.out
    for file in files_of(tmp_path / "by_run"):
        assert (tmp_path / "by_bundle" / file.relative_to(tmp_path / "by_run")).read_bytes() == file.read_bytes()
    assert not told(files_of(bundle), private_names(run))


def test_a_network_that_began_with_published_weights_predicts_without_their_file(
    medformer: Medformer, volumes: Path, tmp_path: Path
) -> None:
    weights, run = tmp_path / "imagenet.pth", tmp_path / "run"
    torch.save(build_backbone("tiny").state_dict(), weights)
    settings = (*SMALL, f"model.weights={weights}", "training.epochs=1")
    trained = medformer("volume", "train", "--data", volumes, "--out", run, *settings)
    assert trained.code == 0, trained.err
    weights.unlink()
    image = read_manifest(volumes).cases[0].image
    result = medformer("volume", "predict", run, image, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 1


def test_patients_stay_on_one_side_and_each_fold_plans_by_itself(run: Path, volumes: Path) -> None:
    groups = {case.id: case.group for case in read_manifest(volumes).cases}
    for fold in read_folds(run / "splits.json").folds:
        sides = [{groups[name] for name in part} for part in fold.parts.values()]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert read_json(run / "folds" / str(fold.index) / "plan.json")["patch"] == [16, 16, 16]


def test_what_a_test_volume_holds_changes_nothing_of_its_fold(
    medformer: Medformer, run: Path, volumes: Path, tmp_path: Path
) -> None:
    """Plan, weights and learning curve of a fold stay bit for bit when its test volumes are overwritten by noise."""
    fold = read_folds(run / "splits.json").folds[0]
    folder = tmp_path / "data"
    shutil.copytree(volumes.parent, folder)
    for name in fold.test:
        path = folder / "images" / f"{name}.nii.gz"
        image = nib.load(path)
        noise = np.random.default_rng(0).integers(0, 60_000, image.shape).astype(np.uint16)
        nib.save(nib.Nifti1Image(noise, image.affine, image.header), path)
    manifest = folder / "manifest.csv"
    text = manifest.read_text("utf-8").splitlines()
    columns = text[0].split(",")
    place = columns.index("sha256")
    manifest.write_text(
        "\n".join(
            [
                text[0],
                *(",".join("" if i == place else cell for i, cell in enumerate(line.split(","))) for line in text[1:]),
            ]
        )
        + "\n"
    )
    out = tmp_path / "run"
    result = medformer("volume", "crossval", "--data", manifest, "--out", out, "--no-baselines", *SMALL, report=False)
    assert result.code == 0, result.err
    assert read_folds(out / "splits.json").folds[0].train == fold.train
    before, after = (path / "folds" / "0" for path in (run, out))
    for name in ("plan.json", "model.safetensors"):
        assert (before / name).read_bytes() == (after / name).read_bytes()
    losses = [[row["train_loss"] for row in read_csv(path / "history.csv")] for path in (before, after)]
    assert losses[0] == losses[1]


def test_an_interrupted_run_ends_with_the_same_bytes(
    medformer: Medformer, run: Path, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    arguments = ("volume", "crossval", "--data", volumes, "--out", out, *SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_end_epoch", pressed)
        medformer(*arguments).refused(130, "Interrupted", "--resume")
    resumed = medformer(*arguments, "--resume", report=False)
    assert resumed.code == 0, resumed.err
    assert (out / "oof.csv").read_bytes() == (run / "oof.csv").read_bytes()


def test_new_volumes_are_labeled_by_the_ensemble_of_the_folds(
    medformer: Medformer, run: Path, volumes: Path, tmp_path: Path
) -> None:
    case = read_manifest(volumes).cases[1]
    out = tmp_path / "predicted"
    result = medformer("volume", "predict", run, case.image, "--out", out)
    assert result.code == 0, result.err
    assert "2 networks" in result.out
    (row,) = read_csv(out / "volumes.csv")
    found = nib.load(out / row["mask"])
    labels = np.asanyarray(found.dataobj)
    assert np.array_equal(found.affine, nib.load(case.image).affine)
    voxel_ml = abs(np.linalg.det(found.affine[:3, :3])) / 1000
    assert float(row["pred_ml:gray matter"]) == pytest.approx((labels == 1).sum() * voxel_ml, rel=1e-6)
    medformer("volume", "predict", run, case.image, "--out", out).refused(2, str(out))


def test_a_volume_that_cannot_be_used_costs_no_other_its_label_map(
    medformer: Medformer, run: Path, volumes: Path, tmp_path: Path
) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    image = nib.load(read_manifest(volumes).cases[0].image)
    voxels = image.get_fdata().astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, image.affine), new / "c.nii.gz")
    shutil.copy(read_manifest(volumes).cases[1].image, new / "d.nii.gz")
    (new / "a.nii.gz").write_bytes((new / "c.nii.gz").read_bytes()[:500])
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), new / "b.nii.gz")
    command = ("volume", "predict", run, new, "--out", out)
    words = ("2 of 4 volumes cannot be used; the other 2 are done", "a.nii.gz", "b.nii.gz holds 1 voxels that are NaN")
    for _ in range(2):
        medformer(*command).refused(3, *words)
        assert [row["id"] for row in read_csv(out / "volumes.csv")] == ["c", "d"]
        assert sorted(path.name for path in (out / "masks").iterdir()) == ["c.nii.gz", "d.nii.gz"]
        command = (*command, "--resume")
    segmented = medformer("volume", "predict", run, new, "--out", tmp_path / "seg", "--dicom-seg")
    segmented.refused(2, "--dicom-seg", "4 of 4 inputs are none")


def test_label_maps_from_elsewhere_are_scored(medformer: Medformer, volumes: Path, tmp_path: Path) -> None:
    labels = volumes.parent / "labels"
    folders = ("--predictions", labels, "--masks", labels, "--manifest", volumes)
    result = medformer("volume", "evaluate", *folders, "--out", tmp_path / "scores")
    assert result.code == 0, result.err
    rows, cases = read_csv(tmp_path / "scores" / "scores.csv"), read_manifest(volumes).by_id
    assert [(row["group"], row["site"]) for row in rows] == [
        (cases[row["id"]].group, cases[row["id"]].site) for row in rows
    ]
    page = (tmp_path / "scores" / "report.html").read_text("utf-8")
    assert "Volume agreement" in page and f"from {len({case.group for case in cases.values()})} groups" in page
    assert read_json(tmp_path / "scores" / "metrics.json")["pooled"]["metrics"]["dice"]["mean"] == 1.0


def test_a_folder_is_enough_but_its_patients_must_be_told(medformer: Medformer, volumes: Path, tmp_path: Path) -> None:
    """Without a manifest the run keeps one. Two visits of a patient under two names do not pass the audit."""
    folder, out = tmp_path / "plain", tmp_path / "run"
    for kind in ("images", "labels"):
        shutil.copytree(volumes.parent / kind, folder / kind)
    arguments = ("volume", "crossval", "--data", folder, "--out", out, "--no-baselines", *SMALL, "training.epochs=1")
    misspelled = medformer(*arguments, "model.name=dformerr")
    misspelled.refused(2, "'dformer'")
    assert "inspecting" not in misspelled.err, "names are looked up before volumes are read"
    medformer(*arguments).refused(3, "patient")
    medformer(*arguments, "data.ungrouped=each").refused(4, "near-duplicate", "p006_v1", "p006_v2")
    accepted = medformer(*arguments, "--ungrouped", "each", "--accept-leak", "near-duplicate:*", report=False)
    assert accepted.code == 0, accepted.err
    assert len(read_manifest(out / "manifest.csv").cases) == len(read_csv(out / "oof.csv")) == 10


def test_a_program_gets_the_label_maps_of_the_command(
    medformer: Medformer, run: Path, volumes: Path, tmp_path: Path
) -> None:
    images = [case.required_image() for case in read_manifest(volumes).cases[:2]]
    result = medformer("volume", "predict", run, *images, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    rows = read_csv(tmp_path / "out" / "volumes.csv")
    model = mf.load(run, task="volume")
    assert isinstance(model, mf.VolumeModel)
    assert dict(model.label_names) == {1: "gray matter", 2: "white matter", 3: "lesion"}
    for found, row, path in zip(model.predict(list(images)), rows, images, strict=True):
        written, image = nib.load(tmp_path / "out" / row["mask"]), nib.load(path)
        assert found.id == row["id"] and np.array_equal(found.labels, np.asanyarray(written.dataobj))
        assert np.array_equal(found.affine, written.affine) and found.labels.dtype == np.uint8
        assert found.volumes_ml == {name: float(row[f"pred_ml:{name}"]) for name in model.label_names.values()}
        # The same numbers from memory, which are not written to.
        array = np.asanyarray(image.dataobj)
        before = array.copy()
        held = model.predict(array, affine=image.affine, probabilities=True)
        assert np.array_equal(held.labels, found.labels) and held.confidence == found.confidence
        assert np.array_equal(array, before) and held.id == "" and held.warnings == found.warnings
        assert held.probabilities is not None and held.probabilities.shape == (*array.shape, 3)
        # Axes that run the other way show the same brain.
        flip = np.diag([-1.0, 1.0, 1.0, 1.0])
        flip[0, 3] = array.shape[0] - 1
        turned = model.predict(array[::-1].astype(np.float64), affine=image.affine @ flip)
        assert np.array_equal(turned.labels[::-1], held.labels)
    spaced = model.predict(array, spacing=np.abs(np.diag(image.affine))[:3])
    assert spaced.labels.shape == array.shape and tuple(np.diag(spaced.affine)) == (12.0, 12.0, 12.0, 1.0)
    for wrong, settings, error, words in (
        (array, {}, mf.ConfigError, "one of the two"),
        (array, {"spacing": (1, 1, 1), "affine": np.eye(4)}, mf.ConfigError, "one of the two"),
        (array, {"spacing": (1, 1)}, mf.DataError, "three numbers"),
        (array, {"spacing": (1, 0, 1)}, mf.DataError, "spacing"),
        (array[0], {"spacing": (1, 1, 1)}, mf.DataError, r"expected real numbers of shape \(X, Y, Z\)"),
        (np.stack([array, array]), {"spacing": (1, 1, 1)}, mf.DataError, r"shape \(X, Y, Z\)"),
        (np.where(array > 0, np.nan, 0.0), {"spacing": (1, 1, 1)}, mf.DataError, "NaN or infinite"),
        (images[0], {"spacing": (1, 1, 1)}, mf.ConfigError, "are for arrays"),
        (volumes.parent / "images", {}, mf.DataError, "holds 10 volumes; expected one"),
    ):
        with pytest.raises(error, match=words):
            model.predict(wrong, **settings)
    far = model.predict(array, spacing=(0.5, 0.5, 0.5))
    assert any("odd-spacing" in said for said in far.warnings)
    assert any("outside-range" in said for said in far.warnings) and not held.made_of


@pytest.fixture(scope="module")
def classified(medformer: Medformer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished cross-validation that classifies twelve small brains, and their manifest."""
    folder = tmp_path_factory.mktemp("classified")
    volumes, out = write_synthetic_volumes(folder / "data", cases=12, spacing=12.0), folder / "run"
    result = medformer(
        "volume", "crossval", "--task", "classification", "--data", volumes, "--out", out, *SMALL, CLASSES
    )
    assert result.code == 0, result.err
    assert f"Next: medformer volume predict {out} NEW" in result.out
    return out, volumes


def test_new_volumes_are_classified_as_the_network_that_tested_them_did(
    medformer: Medformer, classified: tuple[Path, Path], tmp_path: Path
) -> None:
    run, volumes = classified
    result = medformer("volume", "predict", run, volumes.parent / "images", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "12 volumes, " in result.out and "by 2 networks" in result.out
    rows = {row["id"]: row for row in read_csv(tmp_path / "out" / "predictions.csv")}
    for row in read_csv(run / "oof.csv"):
        found = rows[row["id"]]
        assert float(found[f"score_fold_{row['fold']}"]) == pytest.approx(float(row["score"]), abs=1e-6)
        assert int(found["prediction"]) == (float(found["score"]) >= float(found["threshold"]))
    image = read_manifest(volumes).cases[0].image
    medformer("volume", "predict", run, image, "--out", tmp_path / "masks", "--dicom-seg").refused(2, "classifies")
    bad = tmp_path / "images"
    shutil.copytree(volumes.parent / "images", bad)
    next(iter(sorted(bad.iterdir()))).write_bytes(b"no volume")
    result = medformer("volume", "predict", run, bad, "--out", tmp_path / "others")
    result.refused(3, "1 of 12 volumes cannot be used; the other 11 are done")
    assert len(read_csv(tmp_path / "others" / "predictions.csv")) == 11


def test_a_baseline_classifies_new_volumes_as_in_the_fold_that_tested_them(
    medformer: Medformer, classified: tuple[Path, Path], tmp_path: Path
) -> None:
    run, volumes = classified
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in ("linear_shape", "linear_voxels"):
        out = tmp_path / name
        result = medformer("volume", "predict", run, volumes.parent / "images", "--out", out, "--model", name)
        assert result.code == 0, result.err
        assert f"by 2 {name} models" in result.out
        rows = {row["id"]: row for row in read_csv(out / "predictions.csv")}
        for row in read_csv(run / "baselines" / name / "oof.csv"):
            found = float(rows[row["id"]][f"score_fold_{row['fold']}"])
            assert found == pytest.approx(float(row["score"]), abs=1e-9)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    def refused(folder: Path, code: int, *words: str) -> None:
        medformer("volume", "predict", folder, image, "--out", tmp_path / "x", "--model", name).refused(code, *words)

    image, name = read_manifest(volumes).cases[0].image, "linear_shap"
    refused(run, 2, "linear_shape")
    name = "linear_shape"
    medformer("export", run, "--out", tmp_path / "bundle")
    refused(tmp_path / "bundle", 2, "is a bundle")
    first, second = sorted((volumes.parent / "images").iterdir())[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    refused(run, 3, "not what the run was made from", "Restore the data")
    first.write_bytes(kept)
    second.rename(tmp_path / "away")
    refused(run, 3, "gone", "Restore the data")
    (tmp_path / "away").rename(second)


def test_a_program_gets_the_scores_of_the_command(
    medformer: Medformer, classified: tuple[Path, Path], tmp_path: Path
) -> None:
    run, volumes = classified
    images = [case.required_image() for case in read_manifest(volumes).cases[:3]]
    result = medformer("volume", "predict", run, *images, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    rows = {row["id"]: row for row in read_csv(tmp_path / "out" / "predictions.csv")}
    model = mf.load(run, task="volume")
    assert isinstance(model, mf.VolumeClassifier)
    for found in model.predict(list(images)):
        row = rows[found.id]
        assert found.score == float(row["score"]) and found.threshold == float(row["threshold"])
        assert found.by_fold == {str(fold): float(row[f"score_fold_{fold}"]) for fold in range(2)}
        assert (found.label == "positive") == found.positive == (row["prediction"] == "1")
    bundle = moved_bundle(medformer, run, tmp_path)
    assert medformer("volume", "predict", bundle, *images, "--out", tmp_path / "by_bundle").code == 0
    tables = [(tmp_path / out / "predictions.csv").read_bytes() for out in ("out", "by_bundle")]
    assert tables[0] == tables[1] and not told(files_of(bundle), private_names(run))
    image = nib.load(images[0])
    alone = model.predict(np.asanyarray(image.dataobj), affine=image.affine, threshold=0.0)
    assert alone.positive and alone.score == pytest.approx(float(rows[images[0].name.split(".")[0]]["score"]), abs=1e-6)


def test_volumes_are_classified_with_linear_models_beside(classified: tuple[Path, Path]) -> None:
    out, _ = classified
    rows = read_csv(out / "oof.csv")
    assert len(rows) == 12 and all(0.0 <= float(row["score"]) <= 1.0 for row in rows)
    assert sorted(path.name for path in (out / "baselines").iterdir()) == ["linear_shape", "linear_voxels"]
    assert "auc" in read_json(out / "metrics.json")["pooled"]["metrics"]
    assert "linear_shape" in (out / "report.html").read_text("utf-8")


def test_pretraining_sees_the_training_volumes_of_its_fold_alone(
    medformer: Medformer, volumes: Path, tmp_path: Path
) -> None:
    arguments = ("--data", volumes, "--no-baselines", *SMALL, "pretraining.epochs=1", "training.epochs=1")
    out = tmp_path / "run"
    result = medformer("volume", "crossval", "--out", out, *arguments, "pretraining.enabled=true", report=False)
    assert result.code == 0, result.err
    assert read_json(out / "folds" / "0" / "pretraining.json")["masked_mse"] > 0
    alone = tmp_path / "encoder"
    result = medformer("volume", "pretrain", "--data", volumes, "--out", alone, *SMALL, "pretraining.epochs=1")
    assert result.code == 0, result.err
    leaking = medformer("volume", "crossval", "--out", tmp_path / "leak", *arguments, f"pretraining.weights={alone}")
    leaking.refused(4, "pretraining")


def test_a_plan_says_what_training_will_take(medformer: Medformer, volumes: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    result = medformer("volume", "plan", volumes, "--memory", "4GB", "--out", out)
    assert result.code == 0, result.err
    for word in ("spacing", "patch", "strides", "batch size", "memory", "per epoch", "5 fold(s) of 200 epochs"):
        assert word in result.out
    assert 0 < read_json(out)["memory_bytes"] <= 4e9
    quick = medformer(
        "volume", "plan", volumes, "plan.spacing=[5, 5, 5]", "training.minutes=0.01", "model.name=monai:unet"
    )
    # Less than 250 steps fit even with the smallest steps.
    assert quick.code == 0 and "plan.voxels" in quick.out and "65536 voxels" in quick.out
    assert "Given up for it: steps of 2 x (32 x 32 x 32) instead" in quick.out and "fewer than the 250" in quick.out
    medformer("volume", "plan", volumes, "--memory", "lots").refused(2, "lots", "8GB")
    medformer("volume", "plan", volumes, "--memory", "100MB").refused(2, "memory")


def test_a_run_that_no_plan_fits_is_refused_before_it_begins(
    medformer: Medformer, volumes: Path, tmp_path: Path
) -> None:
    arguments = ("volume", "crossval", "--data", volumes, "--out", tmp_path / "run", *SMALL)
    medformer(*arguments, "--memory", "100MB").refused(2, "plan.memory allows 0.1 GB")
    medformer(*arguments, "plan.patch=[400,400,400]").refused(
        2, "plan.patch=[400, 400, 400]", "plan.memory allows 8 GB"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("model.name=monai:dynunett",), 2, ("dynunett", "monai:dynunet")),
        (("model.name=monai:resnet18",), 2, ("--task classification", "meta_unet")),
        (("model.backbone=convformer_v9",), 2, ("convformer_v9", "convformer_v8")),
        (("loss.name=dice_cee",), 2, ("dice_cee", "dice_ce")),
        (("training.batch_size=4",), 2, ("plan.batch_size",)),
        (("plan.spacing=[1, 1]",), 2, ("plan.spacing",)),
        (("pretraining.enabled=true", "model.name=monai:unet"), 2, ("meta_unet",)),
        (("model.name=plsnet", "plan.patch=[8, 8, 8]", "plan.batch_size=1"), 2, ("one value", "raise the batch size")),
    ],
)
def test_a_wrong_setting_ends_the_run_at_once(
    medformer: Medformer, volumes: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    medformer("volume", "crossval", "--data", volumes, "--out", out, *arguments).refused(code, *words)


def test_a_label_map_of_another_grid_is_named(medformer: Medformer, volumes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(volumes.parent, folder)
    case = read_manifest(folder / "manifest.csv").cases[0]
    mask = nib.load(case.required_mask())
    affine = mask.affine.copy()
    affine[0, 3] += 20.0
    nib.save(nib.Nifti1Image(np.asanyarray(mask.dataobj), affine), case.required_mask())
    result = medformer("volume", "crossval", "--data", folder / "manifest.csv", "--out", tmp_path / "run", *SMALL)
    result.refused(3, case.id, "affine")


@pytest.mark.slow
def test_exported_networks_give_the_scores_of_the_command(
    medformer: Medformer, classified: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from medformer.inference.onnx.volume_runner import VolumeRunner

    run, volumes = classified
    result = medformer("export", run, "--out", tmp_path / "bundle", "--onnx")
    assert result.code == 0, result.err
    assert "on validation cases" in result.out
    images = [case.required_image() for case in read_manifest(volumes).cases[:3]]
    assert medformer("volume", "predict", run, *images, "--out", tmp_path / "out").code == 0
    runner = VolumeRunner(tmp_path / "bundle" / "onnx" / "recipe.json")
    for image, row in zip(images, read_csv(tmp_path / "out" / "predictions.csv"), strict=True):
        assert runner.probability([image]) == pytest.approx(float(row["score"]), abs=1e-4)
