"""The networks of the three tasks as their configs build them, timed on this machine with inputs without meaning."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from medformer.config_loading import load_task_config
from medformer.connectome.atlases import ATLASES
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.errors import ConfigError
from medformer.imaging.geometry import times
from medformer.models.precision import bfloat16_units
from medformer.progress import Reporter
from medformer.tasks.abide.predictor import new_network as connectome_network
from medformer.tasks.bench.floor import Ceilings, cost_of, measure_ceilings
from medformer.tasks.bench.machine import describe_machine
from medformer.tasks.bench.passes import Mode, Work, make_pass, mean_square, peak_memory
from medformer.tasks.bench.rounds import turns
from medformer.tasks.polyp.predictor import new_network as frame_network
from medformer.tasks.volume.network import new_network as volume_network
from medformer.tasks.volume.network import small_plan
from medformer.training.devices import choose_device

CONFIGS = ("polyp/default", "polyp/cpu", "volume/default", "abide/default")
"""What is measured where nothing is named."""

PATCH = (64, 64, 64)
"""Of volumes, where the config leaves it to the plan."""

CONNECTOME = ("aal", "cc200")
"""Atlases of connectomes, where the config leaves them to the cohort."""

FORMAT = "medformer-bench/1"


@dataclass(frozen=True)
class Specimen:
    """A network to measure.

    Attributes:
        name: Its config.
        model: With first weights that mean nothing.
        inputs: From a number of cases to a batch of noise.
        size: Pixels, voxels or connections of a case, in words.
        batch: Cases of a training step.
    """

    name: str
    model: nn.Module
    inputs: Callable[[int], Any]
    size: str
    batch: int


def specimen(name: str, task: str, overrides: Sequence[str] = ()) -> Specimen:
    """Build the network of a config.

    Raises:
        ConfigError: There is no such config, or it names no network that can be built.
    """
    config = load_task_config(task, name, overrides, {})
    if task == "abide":
        regions = {atlas: ATLASES[atlas].regions for atlas in config.data.atlases or CONNECTOME}
        columns = Columns(tuple(FeatureBlock(atlas, config.data.measure, count) for atlas, count in regions.items()))
        model, inputs = connectome_network(config, columns, 0), partial(_connections, columns)
        return Specimen(name, model, inputs, f"{columns.edges} connections", config.training.batch_size)
    if task == "volume":
        patch = config.plan.patch or PATCH
        plan = small_plan(config.model_copy(update={"plan": config.plan.model_copy(update={"patch": patch})}))
        network = volume_network(config, plan, 0, pretrained=False)
        return Specimen(name, network, partial(_noise, 1, patch), times(patch), config.plan.batch_size or 2)
    size = config.data.image_size
    network = frame_network(config, 0, pretrained=False)
    return Specimen(name, network, partial(_noise, 3, size), times(size), config.training.batch_size)


def measure(
    names: Sequence[str],
    reporter: Reporter,
    *,
    task: str | None = None,
    accelerator: str = "auto",
    threads: Sequence[int] = (),
    overrides: Sequence[str] = (),
    batch: int | None = None,
    rounds: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measure networks on this machine: predicting one case, and a training step, in each precision that is quick.

    Args:
        names: Configs, shipped or files; none for those of `CONFIGS`.
        reporter: Receives the progress.
        task: Whose configs the names are; None where they are shipped ones.
        accelerator: `auto`, `cpu`, `cuda` or `mps`.
        threads: Numbers of CPU threads to measure with; none for the number that torch takes.
        overrides: `key=value` each.
        batch: Cases of a step; None for as many as the config has, at most what a few seconds allow (`_few`).
        rounds: Measured ones, of which the median counts.
        clock: Gives seconds.

    Returns:
        JSON-able: format, machine, ceilings by number of threads, and one row for each measurement.

    Raises:
        ConfigError: See `specimen`; or a config is of no task that is known.
        ResourceError: The device is not there.
    """
    device, before = choose_device(accelerator), torch.get_num_threads()
    found = [specimen(name, task or _task_of(name), overrides) for name in names or CONFIGS]
    modes = [Mode("fp32"), *([Mode("bf16")] if bfloat16_units(device) else [])]
    limits: dict[int, Ceilings] = {}
    rows: list[dict[str, Any]] = []
    reporter.start("measuring", len(found) * len(threads or (1,)))
    try:
        for count in threads or (before,):
            torch.set_num_threads(count)
            limits[count] = measure_ceilings(device, clock=clock)
            for each in found:
                rows += _rows(each, device, modes, limits[count], rounds, clock, count, batch)
                reporter.advance()
    finally:
        torch.set_num_threads(before)
        reporter.finish()
    return {
        "format": FORMAT,
        "machine": describe_machine(device),
        "ceilings": {count: asdict(limit) for count, limit in limits.items()},
        "rows": rows,
    }


def _rows(
    found: Specimen,
    device: torch.device,
    modes: Sequence[Mode],
    ceilings: Ceilings,
    rounds: int,
    clock: Callable[[], float],
    threads: int,
    batch: int | None,
) -> list[dict[str, Any]]:
    rows = []
    works: tuple[tuple[Work, int], ...] = (("predict", 1), ("train", batch or _few(found, device)))
    for work, cases in works:
        inputs = found.inputs(cases)
        calls = {mode: make_pass(found.model, inputs, work, mode, device, mean_square) for mode in modes}
        seconds = turns({str(mode): call for mode, call in calls.items()}, rounds, clock=clock)
        # After these, what libraries allocate once is there.
        memory = {mode: peak_memory(call, device) for mode, call in calls.items()}
        cost = cost_of(found.model, inputs, work)
        for mode in modes:
            taken = median(seconds[str(mode)])
            products, copies = cost.floors(ceilings, mode.numbers)
            rows.append(
                {
                    "config": found.name,
                    "parameters": sum(parameter.numel() for parameter in found.model.parameters()),
                    "size": found.size,
                    "work": work,
                    "numbers": mode.numbers,
                    "threads": threads,
                    "batch": cases,
                    "seconds": taken,
                    "cases_per_second": cases / taken,
                    "memory_bytes": memory[mode],
                    "operations": cost.operations,
                    "of_products": taken / products if products else None,
                    "of_copies": taken / copies,
                }
            )
    return rows


def table(found: dict[str, Any]) -> list[str]:
    """The rows in lines of text."""
    head = f"{'config':<16}{'case':<22}{'':<8}{'numbers':<9}{'threads':>8}{'batch':>7}{'ms':>10}{'cases/s':>10}"
    lines = [f"{head}{'memory':>10}{'x floor':>9}"]
    for row in found["rows"]:
        memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f} MB"
        floor = "" if row["of_products"] is None else f"{row['of_products']:.1f}"
        lines.append(
            f"{row['config']:<16}{row['size']:<22}{row['work']:<8}{row['numbers']:<9}{row['threads']:>8}"
            f"{row['batch']:>7}{1000 * row['seconds']:>10.1f}{row['cases_per_second']:>10.1f}{memory:>10}{floor:>9}"
        )
    for count, limit in found["ceilings"].items():
        lines.append(
            f"Limits of this machine with {count} thread(s): {limit['fp32'] / 1e9:.0f} GFLOP/s in single precision, "
            f"{limit['bf16'] / 1e9:.0f} in bfloat16, {limit['copy'] / 1e9:.1f} GB/s copied. x floor: time over that of "
            "the network's operations at these rates."
        )
    return lines


def _few(found: Specimen, device: torch.device) -> int:
    """Cases of a step: those of the config on a GPU, at most two pictures or 32 connectomes on a CPU."""
    if device.type == "cuda":
        return found.batch
    return min(found.batch, 32 if "connections" in found.size else 2)


def _task_of(name: str) -> str:
    task = name.partition("/")[0]
    if task not in ("polyp", "volume", "abide"):
        raise ConfigError(f"Of which task is the config {name}? Expected --task polyp, abide or volume beside a file.")
    return task


def _noise(channels: int, size: Sequence[int], count: int) -> torch.Tensor:
    return torch.randn(count, channels, *size)


def _connections(columns: Columns, count: int) -> dict[str, torch.Tensor]:
    return {block.atlas: torch.randn(count, block.size) for block in columns.blocks}
