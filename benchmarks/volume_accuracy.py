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
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alternating import machine
from torch import nn
from turns import Turn

from medformer.config import VolumeConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.plan.schemes import draw_plan
from medformer.data.manifest import Case
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import PatchData
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.data.volumes.read.layout_readers import VolumeScan
from medformer.data.volumes.read.layouts import scan_volumes
from medformer.errors import InterruptedRun
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.statistics.bootstrap import grouped_interval
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, read_json, write_csv, write_json
from medformer.imaging.volumes import read_labels
from medformer.models.backbone.variants import count_parameters
from medformer.seeds import derive_seed
from medformer.training.fit import fit
from medformer.training.losses.objectives import VolumeObjective
from medformer.training.losses.volume_losses import build_volume_loss
from pipelines.console import make_reporter, say
from pipelines.volume_fold import make_segmenter
from pipelines.volume_network import new_network, planned_training
from pipelines.volume_plan import Planner

SIDES = ("ours", "peer")
FOLDS = 5


def main() -> None:
    """Train both sides of every fold in turns, score them, print a table."""
    arguments = parse()
    configs = {side: load_config(arguments.config, arguments.override, model=VolumeConfig) for side in SIDES[:1]}
    configs["peer"] = load_config(arguments.config, [*arguments.override, *arguments.peer_override], model=VolumeConfig)
    torch.set_num_threads(arguments.threads)
    scan = scan_volumes(arguments.data / "volumes" / "Task04_Hippocampus")
    cases = {case.id: case for case in scan.cases if not arguments.inner or development(case.group)}
    folds = draw_folds(configs["ours"], list(cases.values()), scan)[: arguments.folds]
    say(f"{len(cases)} volumes, {len(folds)} of {FOLDS} folds, {arguments.minutes:g} minutes for each side of a fold")
    trained = [run_fold(fold, cases, scan, configs, arguments) for fold in folds]
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


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds volumes/ (default: MEDFORMER_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, per-case scores and JSON")
    parser.add_argument("--config", default="volume/default", help="shipped config or YAML file of our side")
    parser.add_argument("--peer", default="monai:dynunet", help="the other side's model")
    parser.add_argument("--peer-lr", default="3e-3", help="the peer's peak learning rate: the best for it of --inner")
    parser.add_argument("--inner", action="store_true", help="use the development half only, to choose settings by")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"how many of the {FOLDS} folds to run")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each side of a fold")
    parser.add_argument("--turn", type=float, default=2.0, help="minutes before the other side's turn")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for both sides")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no data: set MEDFORMER_DATA or give --data")
    common = [
        "data.workers=0",
        "plan.batch_size=2",
        f"training.minutes={arguments.minutes}",
        f"training.accelerator={arguments.device}",
    ]
    arguments.override = [*common, *arguments.override]
    arguments.peer_override = [f"model.name={arguments.peer}", f"training.lr={arguments.peer_lr}"]
    return arguments


def development(patient: str) -> bool:
    """Whether a patient belongs to the half that settings may be chosen on."""
    return int(hashlib.sha256(b"medformer-dev:" + patient.encode()).hexdigest(), 16) % 2 == 0


def draw_folds(config: VolumeConfig, cases: Sequence[Case], scan: VolumeScan) -> Sequence[Fold]:
    """Divide the volumes, balanced by how much of each is labeled."""
    records = inspect_volumes(cases)
    facts = [case_facts(record, scan.info) for record in records.values()]
    planned = [
        PlanCase(case.id, case.group, covariates={"size": str(sum(of.labels.values()))})
        for case, of in zip(cases, facts, strict=True)
    ]
    settings = config.crossval.model_copy(update={"folds": FOLDS})
    return draw_plan(planned, settings, seed=config.seed).folds


def run_fold(
    fold: Fold,
    cases: Mapping[str, Case],
    scan: VolumeScan,
    configs: Mapping[str, VolumeConfig],
    arguments: argparse.Namespace,
) -> dict[str, dict[str, Any]]:
    """Train both sides of a fold in turns, then let each label the test cases once."""
    folder = arguments.out / f"fold{fold.index}"
    if (folder / "trained.json").is_file():
        return dict(read_json(folder / "trained.json"))
    names = [*fold.train, *fold.validation]
    train = [cases[name] for name in names]
    plan = Planner(configs["ours"], scan.info, inspect_volumes(train)).plan(names)
    store = PreparedStore(arguments.out / "cache", plan, train, memory_gb=configs["ours"].data.cache)
    models = {
        side: new_network(configs[side], plan, derive_seed(configs[side].seed, "weights", fold.index)) for side in SIDES
    }
    state: dict[str, dict[str, Any]] = {}
    while len(state) < len(SIDES):
        for side in SIDES:
            if side not in state:
                came = train_for_a_turn(models[side], store, plan, names, configs[side], folder / side, arguments.turn)
                if came is not None:
                    parameters = count_parameters(models[side])
                    state[side] = {"model": configs[side].model.name, "parameters": parameters, **came}
    for side in SIDES:
        score(models[side], plan, configs[side], [cases[name] for name in fold.test], folder / f"{side}.csv")
    write_json(folder / "trained.json", {"plan": plan.to_json(), **state})
    return {"plan": plan.to_json(), **state}


def train_for_a_turn(
    model: nn.Module,
    store: PreparedStore,
    plan: VolumePlan,
    names: Sequence[str],
    config: VolumeConfig,
    out: Path,
    minutes: float,
) -> dict[str, Any] | None:
    """Train one side for its turn; return what it came to once its time is spent, else None."""
    turn = Turn(minutes)
    augmentation = VolumeAugmentation(config.augment, plan.spacing)
    try:
        with turn:
            result = fit(
                model,
                VolumeObjective(build_volume_loss(config.loss.name)),
                PatchData(store, plan, names, config=config.data, augmentation=augmentation, seed=config.seed),
                None,
                planned_training(config, plan),
                out=out,
                seed=config.seed,
                workers=config.data.workers,
                resume=True,
                metadata={"model": config.model.model_dump(mode="json"), "plan": plan.to_json()},
                reporter=make_reporter(),
            )
    except InterruptedRun:
        if not turn.over:
            raise
        return None
    return {"updates": result.updates, "epochs": result.epochs, "seconds": result.seconds}


def score(model: nn.Module, plan: VolumePlan, config: VolumeConfig, cases: Sequence[Case], path: Path) -> None:
    """Label and score every test case once, on the grid of its file."""
    segmenter = make_segmenter([(model, plan)], config, torch.device(config.training.accelerator))
    rows = []
    for case in cases:
        found, truth = segmenter.segment(case), read_labels(case.required_mask())
        spacing = truth.geometry.spacing
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
    sys.exit(main())
