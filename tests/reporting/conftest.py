from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from few_resamples import few_resamples
from nilearn.datasets import fetch_coords_dosenbach_2010
from PIL import Image
from undrawn import undrawn

from medformer.crossval.plan import Fold, Plan, PlanCase, write_plan
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.collect import collect, write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import execute
from medformer.crossval.run.record import RunInfo, session
from medformer.data.cases import Case
from medformer.data.manifest import read_manifest, write_manifest
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.summary import summarize
from medformer.files import write_csv, write_json
from medformer.imaging.mask_rule import read_mask
from medformer.imaging.masks import write_mask
from medformer.inference.attribution.checks import Randomization, RandomizationStage
from medformer.inference.attribution.integrated_gradients import FoldAttribution
from medformer.inference.attribution.tables import AtlasLabels, write_attributions

HEIGHT, WIDTH = 48, 60
HOSTILE_SITE = "<script>alert('site')</script>$x$"
HOSTILE_REGION = "<b onclick=alert('region')>insula</b> $x$"
HOSTILE_GROUP = "<img src=http://evil.example/x.png onerror=alert(1)>"


def disc(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((y - row) ** 2 + (x - column) ** 2 < radius**2)


def make_cases(folder: Path, groups: int = 12) -> list[Case]:
    """Discs on noise: two frames per group, two sites, one image without a lesion."""
    draw = np.random.default_rng(0)
    cases = []
    for index in range(2 * groups):
        truth = disc(20 + index % 9, 30 - index % 7, 0 if index == 5 else 3 + index % 17)
        picture = draw.integers(60, 110, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        picture[truth] = (200, 120, 100)
        name = f"case{index:02d}"
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "images" / f"{name}.png")
        write_mask(folder / "masks" / f"{name}.png", truth)
        group = HOSTILE_GROUP if index // 2 == 3 else f"patient{index // 2}"
        site = HOSTILE_SITE if index % 4 < 2 else "north"
        image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
        cases.append(Case(name, image, mask, group=group, site=site, sha256=f"{index}"))
    return cases


class SegmentByShift:
    """A fold job that predicts the truth moved by a few pixels, and writes what a real one would."""

    def __init__(self, run: RunDirectory, cases: dict[str, Case]) -> None:
        self.run = run
        self.cases = cases

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        rows = []
        for name in fold.test:
            case = self.cases[name]
            assert case.mask is not None
            truth = read_mask(case.mask)
            shift = int(name[-2:]) % 6
            probability = np.roll(truth, shift, axis=1).astype(np.float32) * 0.8 if name != "case07" else truth * 0.0
            write_mask(self.run.masks / f"{name}.png", probability >= 0.5)
            row = case_row(name, probability, truth, threshold=0.5)
            rows.append({**row, "site": case.site, "mask": f"masks/{name}.png"})
        write_csv(folder / "predictions.csv", rows, list(rows[0]))
        history = [
            {
                "epoch": epoch,
                "train_loss": 1 / epoch,
                "validation_dice": 1 - 0.5 / epoch - 0.01 * fold.index,
                "seconds": 3,
            }
            for epoch in range(1, 9)
        ]
        write_csv(folder / "history.csv", history, list(history[0]))
        start = {
            "what": "fold 0 of run",
            "taken": 5,
            "unused": [],
            "share": 0.9,
            "differing": ["<b>size</b> 1, 2 here"],
        }
        write_json(
            folder / "start.json", {**start, "adapted": {"head": "of a, b: a"}, "left": {"<i>stem": "not there"}}
        )
        if fold.index == 0:
            regions = [{"case": fold.train[at], "kind": at, "place": [0.5, 0.25], "weight": 0.5} for at in range(2)]
            scenes = [{"case": fold.train[2], "weight": 0.75}]
            recalled = {"id": fold.test[0], "marked": True, "regions": regions, "scenes": scenes}
            write_json(folder / "recall.json", {"cases": [recalled]})


def make_run(path: Path, data: Path) -> RunDirectory:
    write_manifest(data / "manifest.csv", make_cases(data))
    manifest = read_manifest(data / "manifest.csv")
    keys = [PlanCase(case.id, case.group, case.site, case.sha256, case.site) for case in manifest.cases]
    plan: Plan = make_plan(keys, folds=3, validation=0.25, seed=0)
    run = RunDirectory.create(path)
    info = RunInfo(
        task="polyp",
        command=["medformer", "polyp", "crossval", "--config", "my config.yaml", "--out", str(path)],
        config={"seed": 0, "model": {"name": "meta_polyp", "backbone": "caformer_s18"}, "training": {"epochs": 8}},
        seed=0,
        device="cpu",
        manifest=str(manifest.path),
        data_root=str(data),
        data_sha256=manifest.digest(),
        accepted_leaks=["near-duplicate:case00|case09"],
        notes=["The images are synthetic."],
    )
    with session(run, info):
        write_plan(run.splits_json, plan)
        finding = {
            "name": "near-duplicate:case00|case09",
            "kind": "near-duplicate",
            "a": "case00",
            "b": "case09",
            "part_a": "fold 0 train",
            "part_b": "fold 0 test",
            "files": ["images/case00.png", "images/<b>case09</b>.png"],
            "score": 0.97,
            "detail": "similarity 0.97",
            "accepted": True,
        }
        problem = {"id": "case02", "severity": "warning", "reason": "small", "detail": "48 x 60 px", "path": "x.png"}
        looked_for = {"group": "the same patient or sequence", "file": "the same file"}
        write_json(
            run.audit_json, {"cases": 24, "looked_for": looked_for, "findings": [finding], "problems": [problem]}
        )
        execute(plan, SegmentByShift(run, manifest.by_id), run)
        collect(run, plan)
        write_metrics(run, summarize)
        add_company(run, plan, manifest.by_id)
    return run


def add_company(run: RunDirectory, plan: Plan, cases: dict[str, Case]) -> None:
    """The baselines, the canary and the site probe, as the pipeline leaves them."""
    truths = {name: read_mask(case.mask) for name, case in cases.items() if case.mask is not None}
    usual = np.mean(list(truths.values()), axis=0).astype(np.float32)
    names = list(truths)
    exchanged = dict(zip(names, [*names[7:], *names[:7]], strict=True))
    write_table(run.baseline("prior_mask"), plan, cases, lambda name: (usual, truths[name]))
    write_table(run.baseline("everything"), plan, cases, lambda name: (truths[name] * 0.0 + 1, truths[name]))
    write_table(run.canary, plan, cases, lambda name: (usual, truths[exchanged[name]]))
    probe = {"sites": 2, "balanced_accuracy": 0.55, "chance": 0.5, "low": 0.41, "high": 0.69}
    write_json(run.site_probe_json, {**probe, "features": "color histograms of the images"})


def write_table(
    run: RunDirectory, plan: Plan, cases: dict[str, Case], predict: Callable[[str], tuple[np.ndarray, np.ndarray]]
) -> None:
    rows = []
    for fold in plan.folds:
        for name in fold.test:
            case = cases[name]
            row = case_row(name, *predict(name), threshold=0.3)
            rows.append({**row, "fold": fold.index, "repeat": 0, "group": case.group, "site": case.site})
    run.path.mkdir(parents=True)
    write_csv(run.oof_csv, rows, list(rows[0]))
    write_metrics(run, summarize)


def make_classification_run(path: Path) -> RunDirectory:
    """Made-up scores of people at three sites, with baselines at chance, a canary and a probe that tells the sites."""
    draw = np.random.default_rng(1)
    people = [
        PlanCase(
            f"sub-{index:03d}",
            f"sub-{index:03d}",
            stratum=str(index % 2),
            fingerprint=f"{index}",
            site=("north", "south", HOSTILE_SITE)[index % 3],
            label=str(index % 2),
            covariates={"age": f"{draw.uniform(7, 60):.1f}", "sex": "FM"[int(draw.integers(2))]},
        )
        for index in range(150)
    ]
    plan = make_plan(people, folds=5, validation=0.2, seed=0)
    run = RunDirectory.create(path)
    info = RunInfo(
        task="abide",
        command=["medformer", "abide", "crossval", "--out", str(path)],
        config={"seed": 0, "model": {"name": "connectome_net"}},
        seed=0,
        device="cpu",
        data_sha256="0" * 64,
    )
    with session(run, info):
        write_plan(run.splits_json, plan)
        write_json(run.audit_json, {"cases": 150, "looked_for": {"group": "the same person"}, "findings": []})
        for sub, strength in ((run, 0.8), (run.baseline("logistic"), 0.4), (run.baseline("prior"), 0.0)):
            write_scores(sub, plan, draw, strength)
        write_scores(run.canary, plan, draw, 0.0)
        probe = {"sites": 3, "n": 150, "balanced_accuracy": 0.71, "chance": 1 / 3, "low": 0.62, "high": 0.8}
        by_site = {site: {"n": 50, "recall": 0.71} for site in ("north", "south", HOSTILE_SITE)}
        write_json(run.site_probe_json, {**probe, "by_site": by_site, "features": "the connectivity matrices"})
    return run


def write_scores(run: RunDirectory, plan: Plan, draw: np.random.Generator, strength: float) -> None:
    rows = []
    by_id = {case.id: case for case in plan.cases}
    for fold in plan.folds:
        for name in fold.test:
            case = by_id[name]
            label = int(case.label)
            score = 1 / (1 + np.exp(-strength * (label - 0.5) * 2 - draw.normal()))
            rows.append(
                {
                    "id": name,
                    "fold": fold.index,
                    "repeat": 0,
                    "group": case.group,
                    "site": case.site,
                    **case.covariates,
                    "label": label,
                    "score": float(score),
                    "threshold": 0.5,
                    "prediction": int(score >= 0.5),
                }
            )
    run.path.mkdir(parents=True, exist_ok=True)
    write_csv(run.oof_csv, rows, list(rows[0]))
    write_metrics(run, summarize)


def connectome_labels() -> dict[str, AtlasLabels]:
    """An atlas whose places and networks are known, all but one, and one of which nothing is known."""
    found = fetch_coords_dosenbach_2010(ordered_regions=False)
    chosen = list(range(0, 160, 4))
    places = [[float(found["rois"].iloc[index][axis]) for axis in "xyz"] for index in chosen]
    names = [str(found["labels"][index]) for index in chosen]
    networks = [str(found["networks"][index]) for index in chosen]
    return {
        "dos160": AtlasLabels([HOSTILE_REGION, *names[1:]], networks, [*places[:-1], None]),
        "cc200": AtlasLabels([f"cluster {index + 1}" for index in range(30)]),
    }


def fold_attribution(fold: int, labels: dict[str, AtlasLabels]) -> FoldAttribution:
    """Noise, and two planted pairs of networks."""
    draw = np.random.default_rng(fold)
    shared = np.random.default_rng(99)
    positive, slope = {}, {}
    for atlas, known in labels.items():
        networks = np.array(known.networks or [""] * len(known.names))
        first, second = (networks[end] for end in known.ends)
        planted = (first == "default") & (second == "fronto-parietal") | (first == "sensorimotor") & (second == first)
        noise = shared.normal(0, 0.001, len(first)) + draw.normal(0, 0.001, len(first))
        positive[atlas] = (noise + 0.004 * planted).astype(np.float32)
        slope[atlas] = np.where(first == "sensorimotor", -0.1, shared.normal(0, 0.1, len(first))).astype(np.float32)
    negative = {atlas: -block for atlas, block in positive.items()}
    strength = {atlas: np.abs(block) + np.float32(0.002) for atlas, block in positive.items()}
    return FoldAttribution(fold, strength, positive, negative, slope, 15, 15, 0.002)


def make_connectome_run(path: Path) -> RunDirectory:
    """A classification run with what the connectome task leaves beside it."""
    run = make_classification_run(path)
    policies = [
        {"situation": "region without signal", "policy": "its connections are 0", "count": 12, "unit": "subjects"},
        {"situation": "scan shorter than the regions", "policy": "kept, warned about", "count": 3, "unit": "subjects"},
    ]
    exclusions = [{"id": f"sub-9{index:02d}", "reason": "motion", "detail": "mean FD 0.4 mm"} for index in range(35)]
    exclusions += [{"id": "<i>sub</i>", "reason": "no_filename", "detail": "the table names no file"}]
    dos = {"title": "Dosenbach, 160 regions", "content": "series", "regions": 161, "constant_regions": 2}
    write_json(
        run.cohort_json,
        {
            "kept": 150,
            "excluded": {"motion": 35, "no_filename": 1},
            "exclusions": exclusions,
            "atlases": {"dos160": dos},
            "policies": policies,
            "unseen_sites": {HOSTILE_SITE: 4},
        },
    )
    for fold in range(5):
        atlases = {
            "dos160": {"masked_mse": 0.6 + 0.01 * fold, "mean_edge_mse": 1.0, "hidden": 100},
            "cc200": {"masked_mse": 0.8, "mean_edge_mse": 1.0, "hidden": 300},
        }
        record = {"masked_mse": 0.75 + 0.0025 * fold, "mean_edge_mse": 1.0, "hidden": 400, "subjects": 24}
        write_json(run.fold(fold) / "pretraining.json", {**record, "atlases": atlases})
        gate = {"gain": 0.02 * fold, "error": 0.03, "best": 0.5, "reason": "compared on the inner validation part"}
        joined = {"sees": "cc200", "value": 0.5 if fold > 1 else 0.0, **gate}
        write_json(run.fold(fold) / "wide.json", {"networks": [joined]})
    explain(run)
    return run


def explain(run: RunDirectory, **changes: object) -> None:
    labels = connectome_labels()
    stages = [
        RandomizationStage("head", 0.1, 0.7, 0.6),
        RandomizationStage("encoder", 0.6, 0.2, 0.4),
        RandomizationStage("embed", 1.0, 0.05, 0.35),
    ]
    given = {"randomization": Randomization(tuple(stages), 0.33, 30), "settings": {"steps": 32}} | changes
    write_attributions(run.path, [fold_attribution(fold, labels) for fold in range(5)], labels, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """What is drawn of an interval is its ends."""
    with few_resamples():
        yield


@pytest.fixture(name="undrawn")
def _undrawn() -> Iterator[None]:
    """For a test that reads the words of a report whose drawings are as in others."""
    with undrawn():
        yield


@pytest.fixture(scope="session")
def connectomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a connectome run; shared, so not to be changed."""
    path = tmp_path_factory.mktemp("connectomes") / "run"
    with few_resamples():
        make_connectome_run(path)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder and, beside it, its data; shared, so not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    with few_resamples():
        make_run(folder / "run", folder / "data")
    return folder


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Callable[[], RunDirectory]:
    """Gives a copy of the run to break."""

    def copy() -> RunDirectory:
        shutil.copytree(finished / "run", tmp_path / "run")
        return RunDirectory.open(tmp_path / "run")

    return copy


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classification run; shared, so not to be changed."""
    path = tmp_path_factory.mktemp("classification") / "run"
    with few_resamples():
        make_classification_run(path)
    return path


@pytest.fixture(scope="session")
def segmented_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder on volumes and, beside it, its data; shared, so not to be changed."""
    folder = tmp_path_factory.mktemp("volumes")
    with few_resamples():
        load(Path(__file__).with_name("volume_run.py")).make_volume_run(folder / "run", folder / "data")
    return folder


@pytest.fixture(scope="session")
def chromium() -> ModuleType:
    """The module browser/chromium.py."""
    return load(Path(__file__).parent / "browser" / "chromium.py")


def load(file: Path) -> ModuleType:
    """Import a file that is in no package."""
    name = f"medformer_tests_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
