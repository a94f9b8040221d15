"""Accuracy of our network against segmentation-models-pytorch's U-Net, both from scratch, on the same data and time.

Both train on PraNet's 1450 training pairs with the same input size, augmentation, loss, optimizer and wall-clock
budget, each at its own peak learning rate, chosen on held-out training pairs. They take turns of a few minutes
in one run, stopped and resumed by the package's own checkpoints, so that whatever else the machine does slows both
alike. Nothing is selected: the last weight average is scored once, at 0.5, on Kvasir-SEG's and CVC-ClinicDB's test
frames and on CVC-300.

MEDFORMER_DATA=/path/to/data python benchmarks/polyp_accuracy.py --out accuracy-run

Settings are chosen with `--inner`, which never opens a test case: it trains on five sixths of the training pairs and
scores the rest, whole video sequences apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from alternating import machine
from torch import nn
from turns import Turn

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import PlanCase
from medformer.crossval.plan.schemes import predefined_plan
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.layouts import scan
from medformer.data.frames.transforms import Augmentation
from medformer.data.manifest import Case
from medformer.errors import InterruptedRun
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, write_csv, write_json
from medformer.imaging.images import read_image, read_mask
from medformer.models.backbone.variants import count_parameters
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.seeds import derive_seed
from medformer.training.fit import fit
from medformer.training.losses.image_losses import build_loss
from medformer.training.losses.objectives import SegmentationObjective
from pipelines.console import make_reporter
from pipelines.polyp_fold import make_segmenter

SIDES = ("ours", "peer")


def main() -> None:
    """Train both sides in turns, score them, print a table."""
    arguments = parse()
    configs = {"ours": load_config(arguments.config, arguments.override)}
    configs["peer"] = load_config(arguments.config, [*arguments.override, *arguments.peer_override])
    torch.set_num_threads(arguments.threads)
    trains, tests = pranet_cases(arguments.data / "polyp")
    if arguments.inner:
        trains, tests = inner_cases(trains, configs["ours"])
    print(f"{len(trains)} training pairs; scored: {', '.join(f'{len(v)} {k}' for k, v in tests.items())}", flush=True)
    models, state = {}, {}
    for side in SIDES:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(configs[side].seed, "weights"))
            models[side] = build_network(configs[side].model, Grid(3, 1, configs[side].data.image_size))
    data = training_data(configs["ours"], trains)
    while len(state) < len(SIDES):
        for side in SIDES:
            if side not in state:
                result = train_for_a_turn(side, models[side], data, configs[side], arguments)
                if result is not None:
                    state[side] = result
    results = {side: score(side, models[side], configs[side], tests, arguments.out) for side in SIDES}
    content = {
        "machine": machine(),
        "device": arguments.device,
        "config": {side: configs[side].model_dump(mode="json") for side in SIDES},
        "networks": {
            side: {"model": name(configs[side]), "parameters": count_parameters(models[side]), **state[side]}
            for side in SIDES
        },
        "results": results,
    }
    write_json(arguments.out / "polyp_accuracy.json", content)
    print(json.dumps(content, indent=2) if arguments.json else table(content))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds polyp/ (default: MEDFORMER_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, per-case scores and JSON")
    parser.add_argument("--config", default="polyp/scratch", help="shipped config or YAML file of our side")
    parser.add_argument("--peer", default="smp:unet/resnet34", help="the other side's model")
    parser.add_argument(
        "--peer-lr", default="1e-3", help="the peer's peak learning rate: the best for it on a validation split"
    )
    parser.add_argument(
        "--inner", action="store_true", help="score held-out training pairs instead of the tests, to choose settings by"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="training time of each side")
    parser.add_argument("--turn", type=float, default=3.0, help="minutes before the other side's turn")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for both sides")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no data: set MEDFORMER_DATA or give --data")
    arguments.override += [f"training.minutes={arguments.minutes}", f"training.accelerator={arguments.device}"]
    arguments.peer_override = [f"model.name={arguments.peer}", f"training.lr={arguments.peer_lr}"]
    return arguments


def pranet_cases(folder: Path) -> tuple[list[Case], dict[str, list[Case]]]:
    """List PraNet's training pairs, and its test sets that are there, by the shipped named split."""
    found = scan([folder / "Kvasir-SEG", folder / "CVC-ClinicDB", folder / "CVC-300"], split="pranet")
    tests: dict[str, list[Case]] = {}
    for case in found.cases:
        if case.split == "test":
            tests.setdefault(case.site, []).append(case)
    return [case for case in found.cases if case.split == "train"], tests


def inner_cases(trains: Sequence[Case], config: PolypConfig) -> tuple[list[Case], dict[str, list[Case]]]:
    """Split the training pairs, by whole groups, into those that train and those that settings are chosen by."""
    planned = [PlanCase(case.id, case.group or case.id, case.site) for case in trains]
    fold = predefined_plan(planned, train=[case.id for case in trains], validation=1 / 6, seed=config.seed).folds[0]
    tests: dict[str, list[Case]] = {}
    for case in trains:
        if case.id in fold.validation:
            tests.setdefault(case.site, []).append(case)
    return [case for case in trains if case.id in fold.train], tests


def training_data(config: PolypConfig, cases: Sequence[Case]) -> SegmentationDataset:
    """Return the training pairs, decoded once and kept in memory."""
    augmentation = Augmentation(config.augment)
    seed = derive_seed(config.seed, "data")
    return SegmentationDataset(cases, config.data.image_size, augmentation=augmentation, seed=seed, cache=True)


def train_for_a_turn(
    side: str, model: nn.Module, data: SegmentationDataset, config: PolypConfig, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """Train one side for its turn; return what it came to once its time is spent, else None."""
    turn = Turn(arguments.turn)
    try:
        with turn:
            result = fit(
                model,
                SegmentationObjective(build_loss(config.loss.name), config.augment.scales),
                data,
                None,
                config.training,
                out=arguments.out / side,
                seed=config.seed,
                workers=config.data.workers,
                resume=True,
                metadata={"model": config.model.model_dump(mode="json")},
                reporter=make_reporter(),
            )
    except InterruptedRun:
        if not turn.over:
            raise
        return None
    return {"updates": result.updates, "epochs": result.epochs, "seconds": result.seconds}


def score(
    side: str, model: nn.Module, config: PolypConfig, tests: dict[str, list[Case]], out: Path
) -> dict[str, dict[str, float]]:
    """Predict and score every test case once, at its own size."""
    segmenter = make_segmenter([model], config)
    rows = []
    for site, cases in tests.items():
        for case in cases:
            assert case.mask is not None
            probability = segmenter.predict([read_image(case.image)], [case.id])[0]
            row = case_row(case.id, probability, read_mask(case.mask), threshold=0.5)
            rows.append({**row, "site": site, "group": case.group or case.id})
    write_csv(out / side / "scores.csv", rows, list(rows[0]))
    by_site = summarize(read_csv(out / side / "scores.csv"))["by_site"]
    return {
        site: {
            "dice": part["metrics"]["dice"]["mean"],
            "low": part["metrics"]["dice"]["low"],
            "high": part["metrics"]["dice"]["high"],
            **{key: part["metrics"][key]["mean"] for key in ("mean_dice_256", "mean_iou_256", "weighted_f", "mae")},
            "s_measure": part["metrics"]["s_measure"]["mean"],
            "max_e": part["max_e"],
        }
        for site, part in by_site.items()
    }


def name(config: PolypConfig) -> str:
    """Name a network as a table should."""
    model = config.model
    return model.name if model.name.startswith("smp:") else f"{model.name} / {model.backbone}"


def table(content: dict[str, Any]) -> str:
    """Format the results as Markdown."""
    lines = [
        "| test set | network | Dice at 0.5 (95 % interval) | mean Dice | mean IoU | weighted F | S | max E | MAE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for site in content["results"]["ours"]:
        for side in SIDES:
            r = content["results"][side][site]
            rest = " | ".join(
                f"{r[key]:.3f}" for key in ("mean_dice_256", "mean_iou_256", "weighted_f", "s_measure", "max_e", "mae")
            )
            model = content["networks"][side]["model"]
            lines.append(f"| {site} | {model} | {r['dice']:.3f} ({r['low']:.3f}-{r['high']:.3f}) | {rest} |")
    for side in SIDES:
        n = content["networks"][side]
        lines.append(
            f"{n['model']}: {n['parameters'] / 1e6:.1f} M parameters, {n['updates']} updates "
            f"in {n['seconds'] / 60:.1f} min"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
