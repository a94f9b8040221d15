"""Every token mixer in one small backbone, on frames, volumes and connectomes, with equal parameters and effort.

Each system is a run of the package's own: a hold-out plan drawn several times (the seeds), the same plan for all
systems of a task. What a mixer has more or less of parameters than separable convolutions, the MLPs of the same blocks
make up for (`model.mlp_ratio`), until the whole network has within a tenth as many as the reference. Then each is
trained twice on one core: for the same number of updates, and for the same CPU time. Settings are the
task's; nothing is tuned.

    MEDFORMER_DATA=/path/to/data python benchmarks/mixer_sweep.py --out sweep

The default is a reduced sweep of about two hours of one core: small images, few cases and short trainings, so that it
shows how mixers learn at the beginning, and not what they reach. An interrupted sweep goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import cpu_clock, machine
from matplotlib.figure import Figure
from scipy.stats import friedmanchisquare, rankdata, studentized_range
from torch import nn

from medformer.config import SCHEMAS, AbideConfig, PolypConfig, VolumeConfig
from medformer.config_loading import load_config
from medformer.crossval.compare.compare import adjust, compare_runs
from medformer.crossval.compare.result import Comparison
from medformer.crossval.run import runner
from medformer.crossval.run.directory import RunDirectory
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.data.frames.describe import inspect_frames
from medformer.data.frames.descriptors import FRAMES
from medformer.data.frames.layouts import scan
from medformer.data.manifest import write_manifest
from medformer.data.near_duplicates import link_near_duplicates
from medformer.files import read_csv, write_json
from medformer.models.backbone.mixers import MIXERS, mixer_parameters
from medformer.models.connectome.build import build_connectome_model
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.tasks import get_task
from pipelines.console import make_reporter, say

REFERENCE = "separable_conv"
TIED = {
    "token_mlp, parallel": ("token_mlp", "parallel"),
    "token_mlp, symmetric": ("token_mlp", "symmetric"),
    "token_mlp, asymmetric": ("token_mlp", "asymmetric"),
}
"""Blocks of associative memories: what is called, its mixer, its block."""
QUESTIONS = {
    "does symmetry hurt": ("token_mlp, parallel", "token_mlp, symmetric"),
    "does breaking it help": ("token_mlp, symmetric", "token_mlp, asymmetric"),
}
"""Claims of Ota and Taki (hierarchical associative memory and mixers, 2024), each as a first and a second system."""
SET = {"selective_scan": {"states": 32}, "global_filter": {"expansion": 1}}
"""Parameters of mixers that have too many of them for the smallest network, with which they fit."""
WITHIN = 0.1
"""How far from the reference the number of parameters may be, as a share of it."""
_RATIOS = (0.02, 16.0)


class Task(NamedTuple):
    """One data set of the sweep.

    Attributes:
        name: Of the task.
        config: Shipped config.
        dims: Spatial dimensions that a mixer works in.
        grid: Positions per axis of the finest map, for mixers whose weights belong to positions.
        settings: What is changed of the config.
        updates: What makes a training long, when all have the same number of updates.
    """

    name: str
    config: str
    dims: int
    grid: int
    settings: tuple[str, ...]
    updates: str


_SMALL = ("model.name=meta_unet", "model.backbone=convformer_v8", "model.init=fan_in", "model.drop_path=0.0")
TASKS = {
    "frames": Task(
        "polyp",
        "polyp/scratch",
        2,
        24,
        (*_SMALL, "data.image_size=[96,96]", "training.batch_size=8", "training.ema=0.9", "augment.scales=[1.0]"),
        "training.epochs=4",
    ),
    "volumes": Task(
        "volume",
        "volume/default",
        3,
        16,
        (
            *_SMALL,
            *("plan.spacing=[2,2,2]", "plan.patch=[16,32,16]", "plan.batch_size=2", "data.patches=1", "data.workers=0"),
            *("training.ema=0.9", "training.lr=3e-3", "inference.overlap=0.25"),
        ),
        "training.epochs=1",
    ),
    "regions": Task(
        "abide", "abide/default", 1, 190, ("model.name=roi_metaformer", "model.depth=2"), "training.epochs=8"
    ),
}


def main() -> None:
    """Run what is not done yet, print tables, draw the figure."""
    arguments = parse()
    torch.set_num_threads(1)
    systems = {name: (name, "sequential") for name in MIXERS if not MIXERS[name].cannot.keys() & {"2-D", "3-D"}} | TIED
    wanted = arguments.only or list(systems)
    systems = {name: systems[name] for name in dict.fromkeys([REFERENCE, *wanted])}
    left_out: dict[str, str] = {}
    ratios: dict[str, dict[str, float]] = {label: {} for label in TASKS}
    for name, system in list(systems.items()):
        try:
            for label, task in TASKS.items():
                ratios[label][name] = ratio_for(task, system)
        except ValueError as error:
            left_out[name] = str(error)
            del systems[name]
    for line in (f"{len(systems)} systems: {', '.join(systems)}.", *left_out.values()):
        say(line)
    for label in arguments.tasks:
        data = prepare(label, arguments)
        for name, system in systems.items():
            for effort in ("updates", "seconds"):
                train(label, TASKS[label], name, system, ratios[label][name], effort, data, arguments)
    if len(arguments.tasks) < len(TASKS):
        say("Give all tasks for tables and a figure; what is done is not done again.")
        return
    found = {effort: collect(effort, systems, ratios, arguments.out) for effort in ("updates", "seconds")}
    content = {"machine": machine(), "minutes": arguments.minutes, "left_out": left_out, **found}
    write_json(arguments.out / "mixer_sweep.json", content)
    draw({effort: part["ranks"] for effort, part in found.items()}, arguments.out / "mixer_sweep.svg")
    say(json.dumps(content, indent=2) if arguments.json else "\n\n".join(table(e, p) for e, p in found.items()))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=root, required=root is None, help="folder with polyp/, ...")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs, JSON and figure")
    parser.add_argument("--minutes", type=float, default=0.15, help="of each training of equal time")
    parser.add_argument("--repeats", type=int, default=3, help="how often each plan is drawn")
    parser.add_argument("--cases", type=int, default=240, help="frames")
    parser.add_argument("--only", nargs="+", help="only these systems, beside the reference")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="only these")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def prepare(label: str, arguments: argparse.Namespace) -> Path:
    """Write the manifest of a task's cases: a fixed draw of those that are there."""
    path = arguments.out / "data" / f"{label}.csv"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if label == "regions":
        prepare_cohort(arguments.data / "abide" / "abide_fc_697.npz", path.parent / "cohort", reporter=make_reporter())
        return path.parent / "cohort" / "manifest.csv"
    if label == "volumes":
        return Path(arguments.data / "volumes" / "Task04_Hippocampus")
    cases = [
        replace(case, group=case.group or case.id, split="")
        for case in scan([arguments.data / "polyp" / "Kvasir-SEG"]).cases
    ]
    drawn = random.Random(0).sample(cases, min(arguments.cases, len(cases)))
    records = inspect_frames(drawn, require_masks=False, reporter=make_reporter())
    write_manifest(path, link_near_duplicates(drawn, records, FRAMES))
    return path


def overrides(task: Task, system: tuple[str, str], ratio: float) -> list[str]:
    """What makes a system of a config."""
    mixer, block = system
    given = {"name": mixer, **SET.get(mixer, {})}
    if "grid" in mixer_parameters(mixer).model_fields:
        given["grid"] = task.grid
    return [f"model.mixers=[{json.dumps(given)}]", f"model.block={block}", f"model.mlp_ratio={ratio:.6g}"]


def parameters(task: Task, system: tuple[str, str], ratio: float) -> int:
    """Count what a system's network learns, without touching memory."""
    given = [*task.settings, *overrides(task, system, ratio)]
    with torch.device("meta"):
        if task.dims == 1:
            subject = load_config(task.config, given, model=AbideConfig)
            return learned(build_connectome_model(subject.model, {"cc200": task.grid}, diagonal=False))
        if task.dims == 2:
            frames = load_config(task.config, given, model=PolypConfig)
            return learned(build_network(frames.model, Grid(3, 2, (32, 32))))
        volumes = load_config(task.config, given, model=VolumeConfig)
        return learned(build_network(volumes.model, Grid(1, 2, (32, 32, 32))))


def learned(model: nn.Module) -> int:
    """Number of parameters, frozen ones left out."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


def ratio_for(task: Task, system: tuple[str, str]) -> float:
    """Return the MLP ratio with which a network has as many parameters as the reference, by bisection.

    Raises:
        ValueError: No ratio brings it within a tenth.
    """
    low, high = _RATIOS
    wanted = parameters(task, (REFERENCE, "sequential"), 2.0)
    for _ in range(24):
        middle = (low * high) ** 0.5
        if parameters(task, system, middle) < wanted:
            low = middle
        else:
            high = middle
    best = min((low, high), key=lambda ratio: abs(parameters(task, system, ratio) - wanted))
    reached = parameters(task, system, best)
    if abs(reached - wanted) > WITHIN * wanted:
        raise ValueError(f"{system} has {reached:,} parameters at best, expected {wanted:,} within {WITHIN:.0%}")
    return best


def run_folder(out: Path, effort: str, label: str, name: str) -> Path:
    """Where a system's run is."""
    return out / effort / label / name.replace(", ", "-")


def train(
    label: str,
    task: Task,
    name: str,
    system: tuple[str, str],
    ratio: float,
    effort: str,
    data: Path,
    arguments: argparse.Namespace,
) -> None:
    """Run a system, or go on where it was stopped."""
    length = task.updates if effort == "updates" else f"training.minutes={arguments.minutes}"
    given = [
        f"data.manifest={data}",
        "crossval.scheme=hold-out",
        "crossval.test=0.2",
        f"crossval.repeats={arguments.repeats}",
        "crossval.baselines=false",
        *task.settings,
        *(["training.minutes=null"] if effort == "updates" else []),
        length,
        *overrides(task, system, ratio),
    ]
    out = run_folder(arguments.out, effort, label, name)
    if not RunDirectory(out).metrics_json.is_file():
        config = load_config(task.config, given, model=SCHEMAS[task.name])
        with cpu_clock():
            runner.run(get_task(task.name), config, out, make_reporter(), resume=RunDirectory(out).run_json.is_file())


def collect(
    effort: str, systems: Mapping[str, Any], ratios: Mapping[str, Mapping[str, float]], out: Path
) -> dict[str, Any]:
    """Compare every system with the reference on each task, and rank all of them over tasks and seeds."""
    rows, blocks, answers = [], [], []
    asked = {question: pair for question, pair in QUESTIONS.items() if systems.keys() >= set(pair)}
    for label, task in TASKS.items():
        runs = {name: RunDirectory(run_folder(out, effort, label, name)) for name in systems}
        others = [name for name in systems if name != REFERENCE]
        made = adjust([compare_runs(runs[REFERENCE], runs[name], name_a=REFERENCE, name_b=name) for name in others])
        compared: dict[str, Comparison] = dict(zip(others, made, strict=True))
        folds = len(made[0].fold_differences)
        for name, system in systems.items():
            gain = compared[name].fold_differences if name in compared else (0.0,) * folds
            rows.append(
                {
                    "task": label,
                    "system": name,
                    "parameters": parameters(task, system, ratios[label][name]),
                    "mlp_ratio": ratios[label][name],
                    **effort_of(runs[name]),
                    "metric": made[0].metric,
                    "value": compared[name].value_b if name in compared else made[0].value_a,
                    "fold_differences": list(gain),
                    **(against(compared[name]) if name in compared else {}),
                }
            )
        blocks.append(np.array([row["fold_differences"] for row in rows if row["task"] == label]).T)
        pairs = adjust([compare_runs(runs[a], runs[b], name_a=a, name_b=b) for a, b in asked.values()])
        for (question, (first, second)), found in zip(asked.items(), pairs, strict=True):
            answers.append({"task": label, "question": question, "a": first, "b": second, **against(found)})
    return {"rows": rows, "answers": answers, "ranks": ranks(list(systems), np.concatenate(blocks))}


def effort_of(run: RunDirectory) -> dict[str, float]:
    """Updates and seconds of a training, mean over the seeds."""
    histories = [read_csv(path) for path in sorted(run.path.glob("folds/*/history.csv"))]
    updates = [int(rows[-1]["steps"]) for rows in histories]
    seconds = [sum(float(row["seconds"]) for row in rows) for rows in histories]
    return {"updates": float(np.mean(updates)), "seconds": float(np.mean(seconds))}


def against(found: Comparison) -> dict[str, Any]:
    """How the second system differs from the first: bootstrap over groups, and the corrected test over seeds."""
    test = found.fold_test
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p_folds": None if test is None else test.p,
        "p_folds_holm": None if test is None else test.p_holm,
    }


def ranks(names: Sequence[str], blocks: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean ranks over blocks `(tasks x seeds, systems)`, Friedman's test and Nemenyi's critical difference.

    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006. The seeds of one task share data,
    so that the blocks are fewer than they look and the critical difference is too small rather than too large.
    """
    each = np.array([rankdata(-row) for row in blocks])
    count = len(names)
    critical = float(
        studentized_range.ppf(0.95, count, np.inf) / 2**0.5 * (count * (count + 1) / (6 * len(blocks))) ** 0.5
    )
    p = float(friedmanchisquare(*blocks.T).pvalue) if count > 2 else None
    mean = dict(zip(names, each.mean(0).tolist(), strict=True))
    return {"mean": mean, "blocks": len(blocks), "critical_difference": critical, "friedman_p": p}


def table(effort: str, part: Mapping[str, Any]) -> str:
    """Format one table as Markdown."""
    lines = [
        f"Equal {effort}:",
        "| system | " + " | ".join(f"{label}" for label in TASKS) + " | mean rank |",
        "|---|" + "---|" * (len(TASKS) + 1),
    ]
    for name, rank in sorted(part["ranks"]["mean"].items(), key=lambda pair: pair[1]):
        cells = []
        for row in (row for row in part["rows"] if row["system"] == name):
            gain = (
                f" ({row['difference']:+.3f}: {row['low']:+.3f} to {row['high']:+.3f})" if "difference" in row else ""
            )
            cells.append(f"{row['value']:.3f}{gain}")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {rank:.1f} |")
    for found in part["answers"]:
        gain = f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
        lines.append(f"{found['question']}, {found['task']}: {found['b']} minus {found['a']} {gain}")
    found = part["ranks"]
    lines.append(
        f"Critical difference of mean ranks {found['critical_difference']:.1f} at 5 %, {found['blocks']} blocks; "
        f"Friedman's p {found['friedman_p']}"
    )
    return "\n".join(lines)


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw mean ranks, with a bar over systems that the critical difference does not tell from the best of the bar."""
    figure = Figure(figsize=(9, 0.3 * len(next(iter(found.values()))["mean"]) + 1.5), layout="constrained")
    for axes, (effort, part) in zip(figure.subplots(1, len(found), sharex=True), found.items(), strict=True):
        ordered = sorted(part["mean"].items(), key=lambda pair: pair[1])
        for height, (name, rank) in enumerate(ordered):
            axes.plot([rank], [-height], "o", color="black")
            axes.annotate(name, (rank, -height), xytext=(6, -3), textcoords="offset points", fontsize=8)
        for start, group in enumerate(cliques([rank for _, rank in ordered], part["critical_difference"])):
            left, right = (ordered[at][1] for at in group)
            axes.plot([left - 0.1, right + 0.1], [0.6 + 0.3 * start] * 2, color="gray", linewidth=3)
        # Names stand to the right of their dots.
        limits = (0.0, 1.45 * ordered[-1][1])
        axes.set(title=f"Mean rank, equal {effort}", yticks=[], xlabel="1 is best", xlim=limits)
    figure.savefig(path, metadata={"Date": None})


def cliques(ordered: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last of each largest group whose ranks lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first in range(len(ordered)):
        last = max(at for at in range(first, len(ordered)) if ordered[at] - ordered[first] <= critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


if __name__ == "__main__":
    main()
