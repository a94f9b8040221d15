from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_walls import small_walls

from medformer.config import InferenceConfig, PolypConfig
from medformer.crossval.plan import Plan, PlanCase
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.collect import collect, read_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import LearnerJob, execute
from medformer.data.manifest import Manifest, read_manifest
from medformer.data.synthetic.colonoscopy import write_synthetic_colonoscopy
from medformer.errors import DataError, UnknownNameError
from medformer.evaluation.masks.segmentation import case_row
from medformer.files import read_csv, read_json
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.inference.baselines.frames import BASELINES, PriorMask
from medformer.inference.score_table import CURVE
from medformer.tasks.polyp.learner import FrameBaselineLearner
from medformer.tasks.polyp.study import PolypStudy


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("colonoscopy")
    with small_walls():
        table = write_synthetic_colonoscopy(folder, groups=10, frames_per_group=2, size=(48, 64), empty=0.1)
    return read_manifest(table)


@pytest.fixture(scope="module")
def plan(manifest: Manifest) -> Plan:
    cases = [PlanCase(case.id, case.group, case.site) for case in manifest.cases]
    return make_plan(cases, folds=2, validation=0.3, seed=0)


def make_job(name: str, manifest: Manifest, folder: Path, **settings: Any) -> LearnerJob:
    study = PolypStudy(config=PolypConfig(seed=3, **settings), data=manifest)
    return LearnerJob(FrameBaselineLearner(study, name), RunDirectory(folder), seed=3)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_leaves_the_table_of_the_network(name: str, manifest: Manifest, plan: Plan, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run").baseline(name)
    job = pickle.loads(pickle.dumps(make_job(name, manifest, run.path)))
    execute(plan, job, run)
    rows = read_oof(collect(run, plan))
    assert [row["id"] for row in rows] == [case.id for case in manifest.cases]
    scored = case_row("any", np.zeros((2, 2), np.float32), np.zeros((2, 2), np.bool_))
    assert set(scored) - {CURVE} | {"components", "confidence", "mask", "image", "truth", "group", "site"} <= set(
        rows[0]
    )
    for row in rows:
        assert row["mask"] == ""
        assert (manifest.root / row["image"]).is_file()
        assert (manifest.root / row["truth"]).is_file()
        assert 0 <= row["dice"] <= 1
    learned = read_json(run.fold(0) / "threshold.json")
    assert "inner validation cases" in learned["from"]
    assert {row["threshold"] for row in rows if row["fold"] == 0} == {learned["threshold"]}
    assert {path.suffix for path in run.folds.rglob("*") if path.is_file()} == {".csv", ".json"}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", list(BASELINES))
def test_the_same_fold_gives_the_same_bytes(name: str, manifest: Manifest, plan: Plan, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_job(name, manifest, tmp_path)(plan.folds[0], tmp_path / folder, False)
    first, second = ((tmp_path / folder / "predictions.csv").read_bytes() for folder in ("a", "b"))
    assert first == second


def test_the_prior_is_scored_like_any_map(manifest: Manifest, plan: Plan, tmp_path: Path) -> None:
    settings = {"inference": InferenceConfig(threshold=0.2)}
    make_job("prior_mask", manifest, tmp_path, **settings)(plan.folds[0], tmp_path, False)
    assert read_json(tmp_path / "threshold.json") == {"threshold": 0.2, "from": "config"}
    row = read_csv(tmp_path / "predictions.csv")[0]
    case = manifest.by_id[row["id"]]
    assert case.mask is not None
    prior = PriorMask(image_size=(64, 64), seed=0).fit([manifest.by_id[name] for name in plan.folds[0].train])
    probability = prior.predict(read_image(case.image))
    expected = case_row(case.id, probability, read_mask(case.mask), threshold=0.2)
    assert {name: row[name] for name in expected} == {name: str(value) for name, value in expected.items()}


@pytest.mark.usefixtures("quickly")
def test_colors_beat_the_average_mask(manifest: Manifest, plan: Plan, tmp_path: Path) -> None:
    dice = {}
    for name in BASELINES:
        make_job(name, manifest, tmp_path)(plan.folds[0], tmp_path / name, False)
        dice[name] = np.mean([float(row["dice"]) for row in read_csv(tmp_path / name / "predictions.csv")])
    assert dice["pixel_color"] > dice["prior_mask"]


def test_what_cannot_work_is_refused(manifest: Manifest, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="prior_mask"):
        make_job("prior", manifest, tmp_path)(plan.folds[0], tmp_path, False)
    unmasked = replace(manifest, cases=tuple(replace(case, mask=None) for case in manifest.cases))
    with pytest.raises(DataError, match="has no mask"):
        make_job("prior_mask", unmasked, tmp_path)(plan.folds[0], tmp_path, False)
