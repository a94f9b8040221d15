"""A network with a memory from the config to the bundle: which cases it holds, and who refuses it for that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.crossval.bundle import CARD_FILE
from medformer.crossval.plan import read_plan
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.files import read_json
from medformer.imaging.images import read_image
from medformer.inference.frames.segment import Segmenter
from medformer.models.backbone.mixers.hopfield_memory import HopfieldMemory
from medformer.progress import SilentReporter
from medformer.tasks import get_task
from medformer.tasks.polyp.predictor import FramePredictor
from medformer.tasks.trained import open_run
from medformer.tensor_file import read_tensors, write_tensors
from medformer.training.banks import remembered_cases

SMALL = ("model.name=meta_unet", "model.backbone=tiny", "training.epochs=1")
MIXERS = "model.mixers=[pooling, {name: hopfield_memory, slots: 8}, hopfield_memory, pooling]"
WEIGHTS = Path("folds/1/model.safetensors")


@pytest.fixture(scope="module")
def remembering(
    medformer: Callable[..., Any], data: Path, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished cross-validation of a network with a memory; not to be changed."""
    run = tmp_path_factory.mktemp("remembering") / "run"
    result = medformer("polyp", "crossval", "--out", run, "--data", data, *settings, *SMALL, MIXERS)
    assert result.code == 0, result.err
    return run


@pytest.fixture
def leaking(remembering: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy whose second fold says that its memory holds a case which it tests, and the id of the case."""
    run = Path(shutil.copytree(remembering, tmp_path / "run"))
    fold = read_plan(run / "splits.json").folds[1]
    tensors, metadata = read_tensors(run / WEIGHTS)
    first = next(iter(metadata["memory"]))
    metadata["memory"][first] = fold.test[0]
    write_tensors(run / WEIGHTS, tensors, metadata)
    return run, fold.test[0]


def test_a_fold_remembers_cases_of_its_training_part_alone(remembering: Path) -> None:
    for fold in read_plan(remembering / "splits.json").folds:
        metadata = read_tensors(remembering / f"folds/{fold.index}/model.safetensors")[1]
        assert set(metadata["memory"].values()) <= set(fold.train) and metadata["memory"]


def test_a_run_whose_memory_holds_a_tested_case_predicts_nothing(
    medformer: Callable[..., Any], data: Path, leaking: tuple[Path, str], tmp_path: Path
) -> None:
    run, name = leaking
    words = ("memory in", f"folds{'/'}1", name, "test part of this fold", "--resume")
    medformer("polyp", "predict", run, data, "--out", tmp_path / "new").refused(4, *words)
    medformer("export", run, "--out", tmp_path / "bundle").refused(4, *words)


def test_a_fold_whose_memory_holds_a_tested_case_is_not_tested(
    medformer: Callable[..., Any], leaking: tuple[Path, str]
) -> None:
    run, name = leaking
    # The training is finished, and the fold is not.
    (run / "folds/1/predictions.csv").unlink()
    config, arguments = run / "config.yaml", ("polyp", "crossval", "--out", run, "--resume")
    medformer(*arguments, "--config", config).refused(4, "memory in", name, "Delete the folder", "--resume")
    shutil.rmtree(run / "folds/1")
    assert medformer(*arguments, "--config", config, report=False).code == 0


def test_a_bundle_predicts_the_same_and_names_no_case(
    medformer: Callable[..., Any], data: Path, remembering: Path, tmp_path: Path
) -> None:
    result = medformer("export", remembering, "--out", tmp_path / "bundle")
    assert result.code == 0, result.err
    assert "the memory of the networks holds numbers computed from" in result.out
    assert "A memory of numbers" in (tmp_path / "bundle" / CARD_FILE).read_text("utf-8")
    names = [case.id for case in read_plan(remembering / "splits.json").cases]
    for file in (file for file in (tmp_path / "bundle").rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert [name for name in names if name.encode() in content] == []
    for source in ("bundle", "run"):
        path = tmp_path / "bundle" if source == "bundle" else remembering
        assert medformer("polyp", "predict", path, data, "--out", tmp_path / f"by-{source}").code == 0
    masks = [sorted((tmp_path / f"by-{source}").rglob("*.png")) for source in ("bundle", "run")]
    assert masks[0] and [file.read_bytes() for file in masks[0]] == [file.read_bytes() for file in masks[1]]


def test_several_processes_are_refused_before_anything_is_trained(
    medformer: Callable[..., Any], data: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    medformer(
        "polyp", "crossval", "--out", tmp_path / "run", "--data", data, *settings, *SMALL, MIXERS, "training.devices=2"
    ).refused(2, "hopfield_memory does not support training.devices > 1")


def test_without_what_was_retrieved_the_prediction_is_another(remembering: Path) -> None:
    run, config = open_run(remembering, "polyp")
    fold = run.fold(0)
    predictor = get_task("polyp").load(config, [fold])
    assert isinstance(predictor, FramePredictor) and isinstance(predictor.mapper, Segmenter)
    study = get_task("polyp").open(config, SilentReporter())
    named = remembered_cases(fold / "model.safetensors")
    one = read_json(fold / "recall.json")["cases"][0]
    assert predictor.recall(study, [one["id"]], named) == [one]
    retrieved = {stored["case"] for stored in one["regions"]}
    assert retrieved and sum(stored["weight"] for stored in one["regions"]) <= 1.001

    image = read_image(study.by_id[one["id"]].required_image())
    *_, mixer = (module for module in predictor.mapper.models[0].modules() if isinstance(module, HopfieldMemory))
    before = predictor.mapper.predict([image])[0]
    bank = mixer.regions
    bank.forget([slot for slot, case in enumerate(bank.cases.tolist()) if named.get(case) in retrieved])
    assert not np.allclose(predictor.mapper.predict([image])[0], before, rtol=0.0, atol=1e-6)
    (changed,) = predictor.recall(study, [one["id"]], named)
    assert not retrieved & {stored["case"] for stored in changed["regions"]}


def test_the_report_shows_what_was_retrieved_and_a_shared_one_names_nobody(
    medformer: Callable[..., Any], remembering: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(remembering, tmp_path / "run"))
    one = read_json(run / "folds/0/recall.json")["cases"][0]
    assert medformer("report", run, "--share").code == 0
    texts = [(run / name).read_text("utf-8") for name in ("report.html", "report_share.html")]
    own, shared = (text[text.index('<section id="memory"') : text.index('<section id="audit"')] for text in texts)
    for name in {one["id"], *(stored["case"] for stored in [*one["regions"], *one["scenes"]])}:
        assert name in own and name not in texts[1]
    assert own.count("<img src=") >= 4 and "No picture" not in own
    assert "<img" not in shared and "region, " in shared and "case 1" in shared


@pytest.mark.slow
@pytest.mark.parametrize("task", ["volume", "classes", "abide"])
def test_volumes_and_connectomes_are_remembered_too(medformer: Callable[..., Any], task: str, tmp_path: Path) -> None:
    common = ("crossval.folds=2", "training.epochs=2", "pretraining.enabled=true", "pretraining.epochs=1")
    if task == "abide":
        write_synthetic_abide(tmp_path / "series", subjects=32, regions={"a": 12, "b": 14}, effect=3.0, volumes=60)
        assert medformer("abide", "prepare", tmp_path / "series", "--out", tmp_path / "cohort").code == 0
        words = ("abide", tmp_path / "cohort/manifest.csv", "model.width=8", "model.mixer=hopfield_memory", "members=2")
    else:
        manifest = write_synthetic_volumes(tmp_path / "volumes", cases=16, spacing=12.0)
        kind = (
            ("--task", "classification", "model.backbone=tiny_classes")
            if task == "classes"
            else ("model.backbone=tiny",)
        )
        words = ("volume", manifest, "plan.patch=[16, 16, 16]", "plan.batch_size=2", *kind, MIXERS)
    result = medformer(
        words[0],
        "crossval",
        "--data",
        words[1],
        "--out",
        tmp_path / "run",
        "--no-baselines",
        *words[2:],
        *common,
        report=False,
    )
    assert result.code == 0, result.err
    for fold in read_plan(tmp_path / "run/splits.json").folds:
        files = list((tmp_path / f"run/folds/{fold.index}").rglob("model.safetensors"))
        assert len(files) == (3 if task == "abide" else 2)
        for file in files:
            tensors, metadata = read_tensors(file)
            assert set(metadata["memory"].values()) <= set(fold.train) and metadata["memory"]
            classes = {kind for name, held in tensors.items() if name.endswith(".classes") for kind in held.tolist()}
            labels = {"abide": 2, "classes": 2, "volume": 4}[task]
            assert classes - {-1} == set(range(1 if file.parent.name == "pretraining" else labels))
