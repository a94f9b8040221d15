from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.crossval.collect import collect, write_metrics
from medformer.crossval.execute import execute
from medformer.crossval.plan import Fold, Plan, PlanCase, write_plan
from medformer.crossval.run_directory import RunDirectory
from medformer.crossval.run_record import RunInfo, session
from medformer.crossval.schemes import make_plan
from medformer.data.manifest import Case, read_manifest, write_manifest
from medformer.evaluation.segmentation import case_row
from medformer.evaluation.summary import summarize
from medformer.files import write_csv, write_json
from medformer.imaging.images import read_mask
from medformer.imaging.masks import write_mask

HEIGHT, WIDTH = 48, 60
HOSTILE_SITE = "<script>alert('site')</script>$x$"
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


def make_run(path: Path, data: Path) -> RunDirectory:
    write_manifest(data / "manifest.csv", make_cases(data))
    manifest = read_manifest(data / "manifest.csv")
    keys = [PlanCase(case.id, case.group, case.site, case.sha256) for case in manifest.cases]
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
    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder and, beside it, its data; shared, so not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    make_run(folder / "run", folder / "data")
    return folder


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Callable[[], RunDirectory]:
    """Gives a copy of the run to break."""

    def copy() -> RunDirectory:
        shutil.copytree(finished / "run", tmp_path / "run")
        return RunDirectory.open(tmp_path / "run")

    return copy
