"""What the speed benchmarks share: sides in turns, ratios with intervals, memory, floors, and files of the results."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine
from torch import nn

from medformer.files import write_json, write_text
from medformer.tasks.bench.floor import Ceilings, cost_of, measure_ceilings
from medformer.tasks.bench.passes import Mode, Numbers, Work, make_pass, mean_square, peak_memory
from medformer.tasks.bench.rounds import Ratio, ratio, turns

TIMES = {"predict": "inference", "train": "training step"}


@dataclass(frozen=True)
class Side:
    """A network that takes part, and how it is computed.

    Attributes:
        name: `ours`, or that of a peer.
        model: The network.
        mode: How.
    """

    name: str
    model: nn.Module
    mode: Mode

    def __str__(self) -> str:
        return f"{self.name}, {self.mode}"


def make_parser(description: str | None, *, batch: int, rounds: int) -> argparse.ArgumentParser:
    """Return the command line that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--out", type=Path, help="folder for the JSON, the Markdown table and the figure")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2], help="CPU threads")
    parser.add_argument("--batch", type=int, default=batch, help="inputs of a pass")
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds; the median counts")
    parser.add_argument("--works", nargs="+", default=list(TIMES), choices=list(TIMES), help="what is timed")
    parser.add_argument("--numbers", nargs="+", default=["fp32", "bf16"], choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="also compiled by torch.compile, which takes minutes")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: on a busy machine, with --threads 1")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes and one round, to try the benchmark")
    return parser


def modes_of(arguments: argparse.Namespace, work: Work) -> list[Mode]:
    """The modes that are asked for; bfloat16 weights are for inference alone."""
    numbers: list[Numbers] = list(arguments.numbers)
    if work == "predict" and "bf16" in numbers:
        numbers.append("bf16 weights")
    modes = [Mode(each) for each in numbers]
    return [*modes, *(Mode(each, compiled=True) for each in numbers if each != "bf16 weights" and arguments.compile)]


def run(
    arguments: argparse.Namespace,
    inputs: torch.Tensor,
    work: Work,
    sides: Sequence[Side],
    against: Callable[[Side], Mapping[str, Side]],
    ceilings: Ceilings,
    **labels: Any,
) -> list[dict[str, Any]]:
    """Time sides in turns and return a row for each.

    Args:
        arguments: Of the command line.
        inputs: Of every pass.
        work: Which pass.
        sides: Who takes part.
        against: The sides that a side is compared with, by what the column of the ratio is called.
        ceilings: Of the machine.
        **labels: What the rows are about.
    """
    device = torch.device(arguments.device)
    calls = {str(side): make_pass(side.model, inputs, work, side.mode, device, mean_square) for side in sides}
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    seconds = turns(calls, arguments.rounds, clock=clock)
    costs = {side.name: cost_of(side.model, inputs, work) for side in sides}
    rows = []
    for side in sides:
        taken = median(seconds[str(side)])
        products, copies = costs[side.name].floors(ceilings, side.mode.numbers)
        row = {
            **labels,
            "work": work,
            "threads": torch.get_num_threads(),
            "side": side.name,
            "numbers": side.mode.numbers,
            "compiled": side.mode.compiled,
            "seconds": taken,
            "ratios": {
                name: ratio(seconds[str(side)], seconds[str(other)])._asdict()
                for name, other in against(side).items()
                if str(other) in seconds
            },
            "memory_bytes": peak_memory(calls[str(side)], device),
            "operations": costs[side.name].operations,
            "of_products": taken / products,
            "of_copies": taken / copies,
        }
        rows.append(row)
        print(f"{labels} {TIMES[work]} {side}: {taken:.4f} s {_ratios(row)}", file=sys.stderr, flush=True)
    return rows


def ceilings_of(arguments: argparse.Namespace, threads: int) -> Ceilings:
    """The machine's limits with a number of threads, which torch has from then on."""
    torch.set_num_threads(threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    return measure_ceilings(torch.device(arguments.device), clock=clock, tiny=arguments.tiny)


def finish(
    arguments: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]],
    ceilings: Mapping[int, Ceilings],
    wanted: Callable[[Mapping[str, Any], str], float | None],
) -> None:
    """Print and write the results.

    Args:
        arguments: Of the command line.
        rows: What was measured.
        ceilings: By number of threads.
        wanted: From a row and the name of a ratio to the most that it should be.
    """
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "out")}
    limits = {count: asdict(limit) for count, limit in ceilings.items()}
    content = {"machine": machine(), "settings": settings, "ceilings": limits, "results": list(rows)}
    text = "\n".join(markdown(content, wanted)) + "\n"
    if arguments.out is not None:
        name = Path(sys.argv[0]).stem
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / f"{name}.json", content)
        write_text(arguments.out / f"{name}.md", text)
        draw(rows, arguments.out / f"{name}.png")
    print(json.dumps(content, indent=2) if arguments.json else text, end="")


def markdown(content: Mapping[str, Any], wanted: Callable[[Mapping[str, Any], str], float | None]) -> list[str]:
    """The results as a table, with what they were measured on above it."""
    about = content["machine"]
    device = about.get("gpu") or about["processor"]
    lines = [f"{device}, torch {about['torch']}; {'CPU time' if content['settings']['cpu_time'] else 'time'}, medians."]
    for count, limit in content["ceilings"].items():
        lines.append(
            f"Limits with {count} thread(s): {limit['fp32'] / 1e9:.0f} GFLOP/s in single precision, "
            f"{limit['bf16'] / 1e9:.0f} in bfloat16, {limit['copy'] / 1e9:.1f} GB/s copied."
        )
    rows = content["results"]
    names = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    labels = [key for key in rows[0] if key not in _MEASURED]
    heads = [*labels, "threads", "pass", "side", "numbers", "ms", *(f"/ {name}" for name in names), "x floor", "memory"]
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        numbers = str(Mode(row["numbers"], row["compiled"]))
        cells = [*(str(row[key]) for key in labels), str(row["threads"]), TIMES[row["work"]], row["side"], numbers]
        cells.append(f"{1000 * row['seconds']:.1f}")
        for name in names:
            found, limit = row["ratios"].get(name), wanted(row, name)
            most = "" if limit is None else f"; wanted {limit:.2f}"
            cells.append("" if found is None else f"{Ratio(**found)}{most}")
        cells.append(f"{row['of_products']:.1f}")
        cells.append("" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f} MB")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "x floor: time over that of the operations at the limit; memory: most beyond the weights."]


_MEASURED = {"work", "threads", "side", "numbers", "compiled", "seconds", "ratios", "memory_bytes"} | {
    "operations",
    "of_products",
    "of_copies",
}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the first ratio of every row with its interval; below 1 is faster than the peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row["ratios"] and row["side"] == "ours"]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.22 * len(shown)), layout="constrained")
    for place, row in enumerate(shown):
        name, found = next(iter(row["ratios"].items()))
        words = [str(row[key]) for key in row if key not in _MEASURED]
        numbers = Mode(row["numbers"], row["compiled"])
        label = f"{' '.join(words)}, {row['threads']} thr, {TIMES[row['work']]}, {numbers} / {name}"
        axes.barh(place, found["median"], color="#4c72b0")
        axes.plot([found["low"], found["high"]], [place, place], color="black", linewidth=1)
        axes.text(0.01, place, label, va="center", fontsize=6)
    axes.axvline(1.0, color="gray", linewidth=1)
    axes.set(yticks=[], xlabel="time, ours / peer")
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _ratios(row: Mapping[str, Any]) -> str:
    return " ".join(f"/ {name} {found['median']:.2f}" for name, found in row["ratios"].items())
