"""How our networks and nnU-Net's (MONAI DynUNet) learn on scans larger than a patch: per update and per second.

Two sets of made-up whole heads with four tissues: voxels of 2 mm, and slices of 1.6 x 1.6 mm that are 6.4 mm thick, the
mean of four. All networks train on the same patients with one plan, one augmentation, loss, optimizer and number of
updates, each at its own learning rate (`SIDES`); some patients of the other part are labeled after each epoch. Seconds
are CPU time of training alone.

python benchmarks/volume_curves.py --out volume-curves

The same command goes on with the trainings that are not done yet.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import nibabel as nib
import numpy as np
import torch
from in_turns import kept
from machine import machine
from torch import nn
from volume_accuracy import train_network

from medformer.config import VolumeConfig
from medformer.config_loading import load_config
from medformer.crossval.run.begin.given_parts import draw
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.files import write_json
from medformer.inference.volumes.segmenter import ValidationVolumeDice
from medformer.models.backbone.variants import count_parameters
from medformer.seeds import derive_seed
from medformer.tasks.volume.network import new_network
from medformer.tasks.volume.task import VolumeTask
from pipelines.console import make_reporter, say

SETS = {"heads of 2 mm": (2.0, 1, [40, 40, 40]), "slices of 6.4 mm": (1.6, 4, [64, 64, 12])}
"""Of each set: voxels, mm; how many of them make one from foot to head; the patch."""
SIDES = {
    "ours": (),
    "coarse": ("model.name=meta_unet", "training.lr=3e-3"),
    "peer": ("model.name=monai:dynunet",),
}
"""What sets each side apart from the defaults; `meta_unet` has the learning rate that it had as the default."""
LEVELS = (0.5, 0.6, 0.7, 0.8)
"""Dice whose updates and seconds the table gives."""


@dataclass
class Judged:
    """Scores a network as a training does after each epoch, and notes the score and the CPU time of training.

    Attributes:
        score: What is asked.
        points: Score and seconds after each epoch.
    """

    score: ValidationVolumeDice
    points: list[tuple[float, float]] = field(default_factory=list)
    measure: str = "dice"

    def __post_init__(self) -> None:
        self._since, self._spent = time.process_time(), 0.0

    def __call__(self, model: nn.Module) -> float:
        self._spent += time.process_time() - self._since
        found = self.score(model)
        self.points.append((found, self._spent))
        self._since = time.process_time()
        return found


def main() -> None:
    """Train all sides on both sets, print a table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the scans, curves, JSON and figure")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="only these")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="only these")
    parser.add_argument("--cases", type=int, default=24, help="scans of each set")
    parser.add_argument("--judged", type=int, default=4, help="scans that are labeled after each epoch")
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    parser.add_argument("--seed", type=int, default=0, help="of scans, folds, weights and order")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for all sides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    curves = {name: run_set(name, arguments) for name in arguments.sets}
    content = {"machine": machine(), "threads": arguments.threads, "epochs": arguments.epochs, "curves": curves}
    write_json(arguments.out / "volume_curves.json", content)
    draw_figure(curves, arguments.out / "volume_curves.svg")
    say(json.dumps(content, indent=2) if arguments.json else table(curves))


def run_set(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the scans of a set, and train all sides on them."""
    spacing, thick, patch = SETS[name]
    folder = arguments.out / name.replace(" ", "-")
    scans = folder / f"{arguments.cases}-scans-of-seed-{arguments.seed}"
    manifest = scans / "manifest.csv"
    if not manifest.is_file():
        write_synthetic_volumes(scans, cases=arguments.cases, spacing=spacing, seed=arguments.seed)
        for path in sorted(scans.glob("*/*.nii.gz")) if thick > 1 else ():
            thicken(path, thick)
    given = [
        f"data.manifest={manifest}",
        f"seed={arguments.seed}",
        f"plan.patch={patch}",
        "plan.batch_size=2",
        "data.workers=0",
        "crossval.folds=3",
        "training.keep=last",
        f"training.epochs={arguments.epochs}",
    ]
    found = {}
    for side in arguments.sides:
        config = load_config("volume/default", [*given, *SIDES[side], *arguments.override], model=VolumeConfig)
        settings = config.model_dump(mode="json")
        record = folder / side / "curve.json"
        if (curve := kept(record, settings)) is None:
            # A curve that was interrupted knows no seconds of what went before.
            rmtree(folder / side, ignore_errors=True)
            curve = {"settings": settings, **train_side(config, folder / side, folder / "cache", arguments.judged)}
            write_json(record, curve)
        found[side] = curve
    return found


def thicken(path: Path, thick: int) -> None:
    """Make a scan's voxels `thick` times as long from foot to head: means of an image, the middle one of a label."""
    scan = nib.load(path)
    axis = next(place for place, code in enumerate(nib.aff2axcodes(scan.affine)) if code in "SI")
    array = np.moveaxis(np.asanyarray(scan.dataobj), axis, -1)
    planes = array.shape[-1] // thick
    split = array[..., : planes * thick].reshape(*array.shape[:-1], planes, thick)
    coarse = np.round(split.mean(-1)) if path.parent.name == "images" else split[..., thick // 2]
    affine = scan.affine.copy()
    affine[:3, axis] *= thick
    affine[:3, 3] += scan.affine[:3, axis] * (thick - 1) / 2
    nib.save(nib.Nifti1Image(np.moveaxis(coarse.astype(array.dtype), -1, axis), affine), path)


def train_side(config: VolumeConfig, out: Path, cache: Path, judged_scans: int) -> dict[str, Any]:
    """Train a network for all epochs; return its curve."""
    study = VolumeTask().open(config, make_reporter())
    inventory = study.inspect(None, make_reporter())
    fold = draw(study, [study.plan_case(case, inventory[case.id]) for case in study.cases]).folds[0]
    judged_on = fold.test[:judged_scans]
    plan = study.planner(inventory).plan(fold.train)
    cases = [study.by_id[name] for name in (*fold.train, *judged_on)]
    store = PreparedStore(cache, plan, cases, memory_gb=config.data.cache)
    judged = Judged(ValidationVolumeDice([store[name] for name in judged_on], plan, config.inference.batch_size))
    network = new_network(config, plan, derive_seed(config.seed, "weights"))
    result = train_network(network, store, plan, list(fold.train), config, out, judged)
    return {
        "model": config.model.name,
        "parameters": count_parameters(network),
        "patients": [len(fold.train), len(judged_on)],
        "shape": list(store[fold.train[0]].shape),
        "patch": list(plan.patch),
        "updates": [int(row["steps"]) for row in result.history],
        "dice": [score for score, _ in judged.points],
        "seconds": [round(seconds, 2) for _, seconds in judged.points],
    }


def first_at(curve: Mapping[str, Any], level: float, unit: str) -> float | None:
    """Updates or seconds after which the Dice is at least a level, between two epochs by a line; None if never."""
    dice, units = [0.0, *curve["dice"]], [0.0, *curve[unit]]
    for before, (score, at) in enumerate(zip(dice[1:], units[1:], strict=True)):
        if score >= level:
            share = (level - dice[before]) / (score - dice[before])
            return float(units[before] + share * (at - units[before]))
    return None


def table(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the curves as Markdown: what each level of Dice took, and the last Dice."""
    lines = ["| set | network | " + " | ".join(f"Dice {level}" for level in LEVELS) + " | last Dice | CPU seconds |"]
    lines.append("|" + "---|" * (len(LEVELS) + 4))
    for name, sides in curves.items():
        for curve in sides.values():
            cells = []
            for level in LEVELS:
                updates, seconds = (first_at(curve, level, unit) for unit in ("updates", "seconds"))
                cells.append("-" if updates is None else f"{updates:.0f} updates, {seconds:.0f} s")
            row = [name, curve["model"], *cells, f"{curve['dice'][-1]:.3f}", f"{curve['seconds'][-1]:.0f}"]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def draw_figure(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw Dice over updates and over seconds for each set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.0 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), 2, sharey=True, squeeze=False)
    units: Sequence[tuple[str, str]] = (("updates", "updates"), ("seconds", "CPU seconds of training"))
    for row, (name, sides) in zip(axes, curves.items(), strict=True):
        for axis, (unit, label) in zip(row, units, strict=True):
            for curve in sides.values():
                axis.plot(curve[unit], curve["dice"], marker=".", label=curve["model"])
            axis.set(xlabel=label, ylabel=f"Dice, {name}" if unit == "updates" else None, ylim=(0, 1))
        row[0].legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
