"""Accuracy of our network against nnU-Net's (MONAI DynUNet) on the hippocampus, both from scratch in the same time.

The 200 labeled volumes of the Medical Segmentation Decathlon's task 4 are divided into five folds, balanced by volume.
In each, both networks train on the same four fifths with one plan (spacing, patch, batch), one augmentation, loss,
optimizer and wall-clock budget, each at its own peak learning rate. They take turns in one run, stopped and resumed by
the package's own checkpoints, so that whatever else the machine does slows both alike. Nothing is selected: the last
weight average labels the remaining fifth once, on the grid of the files.

MEDFORMER_DATA=/path/to/data python benchmarks/volume_accuracy.py --out volume-accuracy

Settings are chosen with `--inner`, which opens half of the patients (by a hash of their names) and no other, one fifth
of them held out. The same command continues an interrupted benchmark.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from in_turns import kept, load_configs, make_parser, peer_settings, train_in_turns
from machine import machine
from torch import nn

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.begin.given_parts import draw
from medformer.data.cases import Case
from medformer.data.inventory import Inventory
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import PatchData
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.statistics.bootstrap import grouped_interval
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, write_csv, write_json
from medformer.imaging.volumes import read_labels
from medformer.seeds import derive_seed
from medformer.tasks.volume.network import new_network, planned_training
from medformer.tasks.volume.predictor import make_segmenter
from medformer.tasks.volume.study import VolumeStudy
from medformer.tasks.volume.task import VolumeTask
from medformer.training.fit import FitResult, fit
from medformer.training.job import Validate
from medformer.training.losses.objectives import VolumeObjective
from medformer.training.losses.segmentation import build_volume_loss
from pipelines.console import make_reporter, say

SIDES = ("ours", "peer")
FOLDS = 5


def main() -> None:
    """Train both sides of every fold in turns, score them, print a table."""
    parser = make_parser(
        __doc__,
        data="volumes",
        config="volume/default",
        peer="monai:dynunet",
        peer_lr="3e-3",
        minutes=10.0,
        turn=2.0,
    )
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"how many of the {FOLDS} folds to run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    folder = arguments.data / "volumes" / "Task04_Hippocampus"
    common = [f"data.manifest={folder}", f"crossval.folds={FOLDS}", "data.workers=0", "plan.batch_size=2"]
    configs = load_configs(arguments, VolumeConfig, {"ours": [], "peer": peer_settings(arguments)}, common)
    torch.set_num_threads(arguments.threads)
    study = open_study(configs["ours"], arguments.inner)
    inventory = study.inspect(None, make_reporter())
    folds = draw(study, [study.plan_case(case, inventory[case.id]) for case in study.cases]).folds
    folds = folds[: arguments.folds]
    say(f"{len(study.cases)} volumes, {len(folds)} of {FOLDS} folds, {arguments.minutes:g} minutes per side and fold")
    trained = [run_fold(fold, study, inventory, configs, arguments) for fold in folds]
    content = {
        "machine": machine(),
        "device": arguments.device,
        "threads": arguments.threads,
        "minutes": arguments.minutes,
        "folds": len(folds),
        "config": {side: configs[side].model_dump(mode="json") for side in SIDES},
        "networks": {side: [fold[side] for fold in trained] for side in SIDES},
        "results": results(folds, arguments.out),
    }
    write_json(arguments.out / "volume_accuracy.json", content)
    say(json.dumps(content, indent=2) if arguments.json else table(content))


def open_study(config: VolumeConfig, inner: bool) -> VolumeStudy:
    """Open the volumes; of the development half only, if settings are to be chosen."""
    study = VolumeTask().open(config, make_reporter())
    if not inner:
        return study
    cases = tuple(case for case in study.cases if development(case.group))
    return replace(study, data=replace(study.data, cases=cases))


def development(patient: str) -> bool:
    """Whether a patient belongs to the half that settings may be chosen on."""
    return int(hashlib.sha256(b"medformer-dev:" + patient.encode()).hexdigest(), 16) % 2 == 0


def run_fold(
    fold: Fold,
    study: VolumeStudy,
    inventory: Inventory,
    configs: Mapping[str, VolumeConfig],
    arguments: argparse.Namespace,
) -> dict[str, dict[str, Any]]:
    """Train both sides of a fold in turns, then let each label the test cases once."""
    folder = arguments.out / f"fold{fold.index}"
    settings = {side: configs[side].model_dump(mode="json") for side in SIDES}
    if (before := kept(folder / "trained.json", settings)) is not None:
        return before
    names = [*fold.train, *fold.validation]
    plan = study.planner(inventory).plan(names)
    cases = [study.by_id[name] for name in names]
    store = PreparedStore(arguments.out / "cache", plan, cases, memory_gb=configs["ours"].data.cache)
    models = {
        side: new_network(configs[side], plan, derive_seed(configs[side].seed, "weights", fold.index)) for side in SIDES
    }

    def train(side: str) -> FitResult:
        return train_network(models[side], store, plan, names, configs[side], folder / side)

    trained = train_in_turns(models, train, arguments.turn)
    networks = {side: {"model": configs[side].model.name, **trained[side]} for side in SIDES}
    for side in SIDES:
        score(models[side], plan, configs[side], [study.by_id[name] for name in fold.test], folder / f"{side}.csv")
    content = {"settings": settings, "plan": plan.to_json(), **networks}
    write_json(folder / "trained.json", content)
    return content


def train_network(
    model: nn.Module,
    store: PreparedStore,
    plan: VolumePlan,
    names: Sequence[str],
    config: VolumeConfig,
    out: Path,
    judge: Validate | None = None,
) -> FitResult:
    """Train a network, or go on where it stopped."""
    augmentation = VolumeAugmentation(config.augment, plan.spacing)
    return fit(
        model,
        VolumeObjective(build_volume_loss(config.loss.name)),
        PatchData(store, plan, names, config=config.data, augmentation=augmentation, seed=config.seed),
        judge,
        planned_training(config, plan),
        out=out,
        seed=config.seed,
        workers=config.data.workers,
        resume=True,
        metadata={"model": config.model.model_dump(mode="json"), "plan": plan.to_json()},
        reporter=make_reporter(),
    )


def score(model: nn.Module, plan: VolumePlan, config: VolumeConfig, cases: Sequence[Case], path: Path) -> None:
    """Label and score every test case once, on the grid of its file."""
    segmenter = make_segmenter([(model, plan)], config, torch.device(config.training.accelerator))
    rows = []
    for case in cases:
        found = segmenter.segment(case)
        truth = read_labels(case.required_mask(), found.geometry)
        spacing = truth.geometry.steps
        row = volume_row(case.id, found.array, truth.array, labels=dict(plan.labels), spacing=spacing)
        rows.append({**row, "group": case.group})
    write_csv(path, rows, list(rows[0]))


def results(folds: Sequence[Fold], out: Path) -> dict[str, Any]:
    """Summarize the test cases of all folds, and the difference case by case."""
    rows = {
        side: [row for fold in folds for row in read_csv(out / f"fold{fold.index}" / f"{side}.csv")] for side in SIDES
    }
    found: dict[str, Any] = {side: summarize(rows[side]) for side in SIDES}
    gain = np.array([float(a["dice"]) - float(b["dice"]) for a, b in zip(rows["ours"], rows["peer"], strict=True)])
    interval = grouped_interval(gain, [row["group"] for row in rows["ours"]])
    found["difference"] = {"dice": float(gain.mean()), "low": interval.low, "high": interval.high}
    return found


def table(content: Mapping[str, Any]) -> str:
    """Format the results as Markdown."""
    found = content["results"]
    labels = list(found["ours"]["by_label"])
    header = ["network", "mean Dice (95 % interval)", *(f"Dice {label}" for label in labels), "HD95 mm", "NSD"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for side in SIDES:
        metrics, network = found[side]["pooled"]["metrics"], content["networks"][side][0]
        dice = metrics["dice"]
        by_label = [f"{found[side]['by_label'][label]['metrics']['dice']['mean']:.3f}" for label in labels]
        row = [
            f"{network['model']}, {network['parameters'] / 1e6:.1f} M",
            f"{dice['mean']:.4f} ({dice['low']:.4f}-{dice['high']:.4f})",
            *by_label,
            f"{metrics['hd95_mm']['mean']:.2f}",
            f"{metrics['nsd_mm']['mean']:.3f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    gain = found["difference"]
    lines.append(
        f"Difference in Dice, ours minus peer: {gain['dice']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
    )
    for side in SIDES:
        updates = ", ".join(str(fold["updates"]) for fold in content["networks"][side])
        lines.append(f"{content['networks'][side][0]['model']}: {updates} updates in the folds")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
