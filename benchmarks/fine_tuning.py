"""Fine-tuning a network of Kvasir-SEG on CVC-ClinicDB, against ImageNet weights and four times the updates.

One run trains on all of Kvasir-SEG. On ClinicDB, whose video sequences stay on one side of each split, three runs of
each seed then share a plan, and differ in where they start and how long they train:

* `imagenet`: the config's own first weights, all updates;
* `imagenet_quarter`: the same, a quarter of the updates;
* `tuned`: the network of the Kvasir run (`--init-from`), a quarter of the updates.

All have the same settings, learning rate included. The leakage audit of the package runs in each. The same command
goes on where it was stopped.

MEDFORMER_DATA=/path/to/data python benchmarks/fine_tuning.py --out tuning-run
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import machine

from medformer.config import PolypConfig
from medformer.config_loading import load_config
from medformer.crossval.compare.compare import compare_runs
from medformer.crossval.run import runner
from medformer.crossval.run.directory import RunDirectory
from medformer.data.cases import Case
from medformer.data.frames.layouts import scan
from medformer.data.manifest import write_manifest
from medformer.files import read_csv, read_json, write_json
from medformer.tasks import get_task
from pipelines.console import make_reporter, say

BEFORE, FULL, QUARTER, TUNED = "kvasir", "imagenet", "imagenet_quarter", "tuned"


def main() -> None:
    """Train what is missing, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=root, required=root is None, help="folder with polyp/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and JSON")
    parser.add_argument("--config", default="polyp/cpu", help="shipped config or YAML file of all runs")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time on Kvasir-SEG")
    parser.add_argument(
        "--epochs", type=int, default=4, help="on ClinicDB; the quarter is of these, so a multiple of 4"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="each draws another split")
    parser.add_argument("--test", type=float, default=0.3, help="share of ClinicDB that is tested")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--frames", type=int, default=None, help="only so many of each data set, to try the command")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("override", nargs="*", metavar="KEY=VALUE", help="config values for all runs")
    arguments = parser.parse_args()
    if arguments.epochs % 4:
        parser.error(f"--epochs {arguments.epochs}: expected a multiple of 4, so that a quarter is whole epochs")
    torch.set_num_threads(arguments.threads)
    folder = arguments.data / "polyp"
    kvasir = manifest(folder / "Kvasir-SEG", arguments.out / "kvasir.csv", arguments.frames)
    clinic = manifest(folder / "CVC-ClinicDB", arguments.out / "clinicdb.csv", arguments.frames)

    def train(name: str, data: Path, *own: str) -> RunDirectory:
        shared = ("crossval.baselines=false", *arguments.override, f"data.manifest={data}")
        return run(arguments.out / name, arguments.config, (*shared, *own))

    before = train(BEFORE, kvasir, "crossval.scheme=predefined", f"training.minutes={arguments.minutes}")
    results = {}
    for seed in arguments.seeds:
        plan = (f"seed={seed}", "crossval.scheme=hold-out", f"crossval.test={arguments.test}", "training.minutes=null")
        quarter = f"training.epochs={arguments.epochs // 4}"
        runs = {
            FULL: train(f"{FULL}-{seed}", clinic, *plan, f"training.epochs={arguments.epochs}"),
            QUARTER: train(f"{QUARTER}-{seed}", clinic, *plan, quarter),
            TUNED: train(f"{TUNED}-{seed}", clinic, *plan, quarter, f"training.init_from={before.path}"),
        }
        results[str(seed)] = {
            "runs": {name: outcome(found) for name, found in runs.items()},
            "differences": {name: difference(runs[name], runs[TUNED]) for name in (FULL, QUARTER)},
        }
    content = {
        "machine": machine(),
        "config": arguments.config,
        "override": arguments.override,
        "start": {"updates": updates(before), "minutes": arguments.minutes},
        "taken": read_json(arguments.out / f"{TUNED}-{arguments.seeds[0]}" / "folds" / "0" / "start.json"),
        "seeds": results,
        "mean_dice": {
            name: sum(one["runs"][name]["dice"] for one in results.values()) / len(results)
            for name in (FULL, QUARTER, TUNED)
        },
    }
    write_json(arguments.out / "fine_tuning.json", content)
    say(json.dumps(content, indent=2) if arguments.json else table(content))


def manifest(folder: Path, out: Path, frames: int | None) -> Path:
    """Write the manifest of a data set; Kvasir-SEG does not know its patients, ClinicDB knows its sequences."""
    cases: Sequence[Case] = [replace(case, group=case.group or case.id, split="") for case in scan([folder]).cases]
    if frames is not None:
        cases = random.Random(0).sample(list(cases), frames)
    write_manifest(out, cases)
    return out


def run(out: Path, config: str, overrides: Sequence[str]) -> RunDirectory:
    """Run a plan, or go on where it was stopped."""
    loaded = load_config(config, list(overrides), model=PolypConfig)
    return runner.run(get_task("polyp"), loaded, out, make_reporter(), resume=RunDirectory(out).run_json.is_file())


def outcome(done: RunDirectory) -> dict[str, Any]:
    """Dice over the test frames with its interval over sequences, and what it took."""
    pooled = read_json(done.metrics_json)["pooled"]
    dice = pooled["metrics"]["dice"]
    minutes = sum(float(row["seconds"]) for row in read_csv(done.fold(0) / "history.csv")) / 60
    found = {"dice": dice["mean"], "low": dice["low"], "high": dice["high"], "frames": pooled["n"]}
    return {**found, "sequences": pooled["groups"], "updates": updates(done), "minutes": minutes}


def difference(a: RunDirectory, b: RunDirectory) -> dict[str, float]:
    """Dice of B minus that of A, with its interval over sequences."""
    found = compare_runs(a, b, metric="dice")
    return {"difference": found.difference, "low": found.low, "high": found.high}


def updates(done: RunDirectory) -> int:
    """Optimizer steps of the only fold."""
    return int(read_csv(done.fold(0) / "history.csv")[-1]["steps"])


def table(content: Mapping[str, Any]) -> str:
    """Format the results as Markdown."""
    lines = ["| seed | start | updates | Dice (95 % interval) | tuned minus this |", "|---|---|---|---|---|"]
    for seed, one in content["seeds"].items():
        for name, r in one["runs"].items():
            lead = one["differences"].get(name)
            led = f"{lead['difference']:+.3f} ({lead['low']:+.3f} to {lead['high']:+.3f})" if lead else ""
            dice = f"{r['dice']:.3f} ({r['low']:.3f}-{r['high']:.3f})"
            lines.append(f"| {seed} | {name} | {r['updates']} | {dice} | {led} |")
    means = ", ".join(f"{name} {value:.3f}" for name, value in content["mean_dice"].items())
    return "\n".join([*lines, f"Mean over seeds: {means}. The Kvasir run had {content['start']['updates']} updates."])


if __name__ == "__main__":
    main()
