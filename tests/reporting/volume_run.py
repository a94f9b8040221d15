"""A made-up run on volumes: two labels in oblique, anisotropic scans, predicted by moving the truth."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medformer.crossval.plan import Fold, PlanCase, write_plan
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.collect import collect, write_metrics
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import execute
from medformer.crossval.run.record import RunInfo, session
from medformer.data.cases import Case
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan, write_volume_plan
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.summary import summarize
from medformer.files import write_csv, write_json
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.volumes import read_labels
from medformer.inference.volumes.components import Components, write_components

HOSTILE_LABEL = "<i onclick=alert(1)>Posterior</i> $x$"
LABELS = {1: "Anterior", 4: HOSTILE_LABEL}
SHAPE = (26, 34, 20)
CASES = 18


def affine(turned: bool) -> np.ndarray:
    """1 x 1 x 1.6 mm, a little oblique; turned: the first two axes point the other way."""
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn * [-1, -1, 1.6] if turned else turn * [1, 1, 1.6]
    return matrix


def make_cases(folder: Path) -> list[Case]:
    """Two scans of each patient, two sites; case03 lacks the second label."""
    draw = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    cases = []
    for index in range(CASES):
        name = f"case{index:02d}"
        radius = 3.5 + index % 5
        body = ((x - 12) / radius) ** 2 + ((y - 17) / (1.8 * radius)) ** 2 + ((z - 10) / (0.6 * radius)) ** 2 < 1
        truth = np.where(body, np.where(y < 17, 1, 4), 0).astype(np.uint8)
        if index == 3:
            truth[truth == 4] = 0
        gray = ndimage.gaussian_filter(draw.normal(0, 60, SHAPE), 1.2) + 40 * body + 20 * (truth == 4) + 100
        placed = affine(turned=index % 3 == 0)
        image, mask = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
        for file, array in ((image, gray.astype(np.float32)), (mask, truth)):
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, placed), file)
        site = "north" if index % 4 < 2 else "south"
        cases.append(Case(name, image, mask, group=f"patient{index // 2}", site=site, sha256=f"{index}"))
    return cases


class SegmentByShift:
    """A fold job that predicts the truth moved and grown a little, and writes what a real one would."""

    def __init__(self, run: RunDirectory, cases: dict[str, Case]) -> None:
        self.run = run
        self.cases = cases

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        plan = VolumePlan(
            spacing=(1.0, 1.0, 1.6 if fold.index else 1.5),
            intensity=(Intensity(),),
            labels=tuple(LABELS.items()),
            patch=(32, 40, 24),
            strides=((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)),
            kernel_sizes=((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
            batch_size=2,
            memory_bytes=1_300_000_000,
            notes=("volumes smaller than the patch are padded",),
        )
        write_volume_plan(folder / "plan.json", plan)
        components = Components({1: "largest", 2: "all"}, {1: {"all": 0.7, "largest": 0.8}}, {1: 6, 2: 5 - fold.index})
        write_components(folder / "components.json", components)
        rows = []
        for name in fold.test:
            case = self.cases[name]
            assert case.mask is not None
            truth = read_labels(case.mask)
            found = self.predict(name, truth.array)
            write_labels(self.run.masks / f"{name}.nii.gz", found, truth)
            row = volume_row(name, found, truth.array, labels=LABELS, spacing=truth.geometry.spacing)
            rows.append({**row, "site": case.site, "mask": f"masks/{name}.nii.gz", "image": f"images/{name}.nii.gz"})
        write_csv(folder / "predictions.csv", rows, list(rows[0]))
        curve = [{"epoch": n, "train_loss": 1 / n, "validation_dice": 1 - 0.5 / n, "seconds": 3} for n in range(1, 6)]
        write_csv(folder / "history.csv", curve, list(curve[0]))

    def predict(self, name: str, truth: np.ndarray) -> np.ndarray:
        """case05 is missed whole and the first label of case08."""
        index = int(name[-2:])
        found = np.roll(truth, (index % 3 - 1, index % 2, 0), axis=(0, 1, 2))
        if index % 4 == 1:
            found = np.where(found == 0, ndimage.grey_dilation(found, size=(3, 1, 1)), found)
        if index == 5:
            found = np.zeros_like(truth)
        if index == 8:
            found[found == 1] = 0
        return found


def make_volume_run(path: Path, data: Path) -> RunDirectory:
    """Write the data and the run."""
    write_manifest(data / "manifest.csv", make_cases(data))
    manifest = read_manifest(data / "manifest.csv")
    keys = [PlanCase(case.id, case.group, case.site, case.sha256, case.site) for case in manifest.cases]
    plan = make_plan(keys, folds=3, validation=0.25, seed=0)
    run = RunDirectory.create(path)
    info = RunInfo(
        task="volume",
        command=["medformer", "volume", "crossval", "--data", str(data), "--out", str(path)],
        config={
            "seed": 0,
            "model": {"name": "meta_unet", "backbone": "convformer_v8"},
            "inference": {"threshold": "fit"},
        },
        seed=0,
        device="cpu",
        manifest=str(manifest.path),
        data_root=str(data),
        data_sha256=manifest.digest(),
    )
    with session(run, info):
        write_plan(run.splits_json, plan)
        write_json(run.audit_json, {"cases": CASES, "looked_for": {"group": "the same patient"}, "findings": []})
        execute(plan, SegmentByShift(run, manifest.by_id), run)
        collect(run, plan)
        write_metrics(run, summarize)
    return run
