"""Folds one after another against folds at once, on the real connectomes: time, processor time, and equal results.

Part `processes`: a few folds with few epochs, inline with one thread, inline with all threads, and in processes of one
thread each (`execution.executor=processes`), in turns. The processes are started before the clock, as in a run they are
once. Predictions must be those of the inline executor with one thread, bit for bit; those with more threads are told
apart from them by rounding.

Part `batched`: one optimizer step of a few members as one batched network (torch.func: stacked parameters, functional
call, vmap), against the same steps one after another, these with torch's linear layers too, and against the time that
the step's matrix products alone take at the rate that this machine's largest ones reach: what is not above it cannot
become faster by batching.

    MEDFORMER_DATA=/path/to/data python benchmarks/folds_at_once.py --out folds

On a machine that does other work too, read the processor time: that of all processes together, which on free cores
takes as long as its largest share.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import statistics
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import machine
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from medformer.config import AbideConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import Plan, read_plan, write_plan
from medformer.crossval.run.begin.given_parts import draw
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import Executor, InlineExecutor, LearnerJob, execute
from medformer.crossval.run.executors.processes import ProcessExecutor
from medformer.data.connectomes.check import link_same_subject
from medformer.data.connectomes.cohort import read_cohort, write_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.files import read_csv, write_json
from medformer.models import linear
from medformer.models.backbone import mlp
from medformer.models.connectome.build import build_connectome_model
from medformer.progress import SilentReporter
from medformer.tasks.abide.learner import ConnectomeLearner
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.abide.task import AbideTask
from medformer.tasks.bench.floor import measure_ceilings
from medformer.tasks.bench.rounds import ratio, turns
from medformer.training.losses.objectives import ClassificationObjective, Moment
from medformer.training.optimizer import build_optimizer

CONFIGS = {"default": "abide/default", "metaformer_paper": "abide/paper"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("MEDFORMER_DATA")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds abide/ (default: MEDFORMER_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is computed")
    parser.add_argument("--only", choices=CONFIGS, action="append", help="only this network; repeatable")
    parser.add_argument("--part", choices=["processes", "batched"], action="append", help="only this part; repeatable")
    parser.add_argument("--folds", type=int, default=4, help="of the ten")
    parser.add_argument("--epochs", type=int, default=2, help="of training, and of pretraining where there is one")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, and threads of the inline side")
    parser.add_argument("--members", type=int, default=4, help="of the batched network")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("no data: set MEDFORMER_DATA or give --data")
    found: dict[str, Any] = {"machine": machine()}
    for name in arguments.only or CONFIGS:
        parts = {"processes": side_by_side, "batched": batched}
        found[name] = {part: parts[part](CONFIGS[name], arguments) for part in arguments.part or parts}
    write_json(arguments.out / "folds_at_once.json", found)
    print(json.dumps(found, indent=2))


def side_by_side(config: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the same folds in each way, in turns."""
    study, plan = study_of(config, arguments)
    workers = arguments.workers
    with ExitStack() as stack:
        pool = ProcessExecutor(workers=workers)
        ways: dict[str, tuple[int, Executor]] = {
            "inline, 1 thread": (1, InlineExecutor()),
            f"inline, {workers} threads": (workers, InlineExecutor()),
            f"{workers} processes": (1, stack.enter_context(pool)),
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}

        def run(name: str) -> None:
            threads, executor = ways[name]
            torch.set_num_threads(threads)
            out = arguments.out / "runs" / name.replace(", ", "-").replace(" ", "-")
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            before = processor_time(pool)
            job = LearnerJob(ConnectomeLearner(study=study, features=study.features), RunDirectory(out), 0)
            execute(plan, job, RunDirectory(out), SilentReporter(), executor)
            spent[name].append(processor_time(pool) - before)
            scores[name] = predictions(RunDirectory(out), plan)

        scores: dict[str, dict[str, tuple[float, int]]] = {}
        seconds = turns({name: partial(run, name) for name in ways}, arguments.rounds)
    first, *_ = ways
    labels = [label for _, label in scores[first].values()]
    aucs = {
        name: float(roc_auc_score(labels, [score for score, _ in found.values()])) for name, found in scores.items()
    }
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            # The first, unmeasured round holds the start of the processes.
            "processor_seconds": statistics.median(spent[name][1:]),
            "times_faster": ratio(seconds[first], seconds[name]).median,
            "times_faster_on_free_cores": ratio(spent[first][1:], spent[name][1:]).median
            * (workers if name.endswith("processes") else 1),
            "largest_difference": max(abs(scores[first][case][0] - value) for case, (value, _) in scores[name].items()),
            "auc_difference": aucs[name] - aucs[first],
        }
        for name in ways
    }


def study_of(config: str, arguments: argparse.Namespace) -> tuple[AbideStudy, Plan]:
    """The subjects under a config, and the first folds of ten."""
    cohort = arguments.out / "cohort"
    if not (cohort / "manifest.csv").is_file():
        prepare_cohort(arguments.data / "abide" / "abide_fc_697.npz", cohort, reporter=SilentReporter())
        write_cohort(cohort, link_same_subject(read_cohort(cohort))[0])
    epochs = [f"{section}.epochs={arguments.epochs}" for section in ("training", "pretraining")]
    given = [f"data.manifest={cohort / 'manifest.csv'}", "training.accelerator=cpu", *epochs]
    study = AbideTask().open(load_config(config, given, model=AbideConfig), SilentReporter())
    path = arguments.out / "splits.json"
    if not path.is_file():
        inventory = study.inspect(None, SilentReporter())
        write_plan(path, draw(study, [study.plan_case(case, inventory[case.id]) for case in study.cases]))
    plan = read_plan(path)
    return study, Plan(plan.scheme, plan.seed, plan.cases, plan.folds[: arguments.folds])


def predictions(run: RunDirectory, plan: Plan) -> dict[str, tuple[float, int]]:
    """Score and label of every tested subject."""
    rows = [row for fold in plan.folds for row in read_csv(run.fold(fold.index) / "predictions.csv")]
    return {row["id"]: (float(row["score"]), int(row["label"])) for row in rows}


def processor_time(pool: ProcessExecutor) -> float:
    """Seconds of this process and of those of a pool; Linux."""
    tick = os.sysconf("SC_CLK_TCK")
    others = 0.0
    for worker in pool.processes:
        fields = Path(f"/proc/{worker.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        others += (int(fields[11]) + int(fields[12])) / tick
    return time.process_time() + others


def batched(config: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Time steps of several members as one batched network against the same one after another, in processor time."""
    settings = load_config(config, ["data.manifest=none"], model=AbideConfig)
    regions = {"aal": 116, "cc200": 200, "ho": 111}
    torch.set_num_threads(1)
    objective, moment = ClassificationObjective(settings.loss), Moment(0, 0, 0)
    models: list[nn.Module] = []
    batches: list[dict[str, Any]] = []
    for member in range(arguments.members):
        torch.manual_seed(member)
        models.append(build_connectome_model(settings.model, regions).train())
        size = settings.training.batch_size
        edges = {atlas: torch.randn(size, count * (count - 1) // 2) for atlas, count in regions.items()}
        batches.append({"edges": edges, "label": torch.randint(0, 2, (size,))})
    optimizers = [build_optimizer(model, settings.training) for model in models]

    def one_after_another() -> None:
        for model, optimizer, batch in zip(models, optimizers, batches, strict=True):
            optimizer.zero_grad(set_to_none=True)
            objective(model, batch, moment).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.training.clip)
            optimizer.step()

    parameters, _ = stack_module_state(models)
    own = [dict(model.named_buffers()) for model in models]
    buffers = {name: torch.stack([each[name] for each in own]) for name in own[0]}
    skeleton = copy.deepcopy(models[0]).to("meta")
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=settings.training.lr, fused=True)
    inputs = {atlas: torch.stack([batch["edges"][atlas] for batch in batches]) for atlas in regions}
    labels = torch.stack([batch["label"] for batch in batches])

    def loss(state: dict[str, Tensor], held: dict[str, Tensor], edges: Any, label: Tensor) -> Tensor:
        return objective(
            lambda given: functional_call(skeleton, (state, held), (given,)), {"edges": edges, "label": label}, moment
        )

    losses = vmap(loss, randomness="different")

    def together() -> None:
        optimizer.zero_grad(set_to_none=True)
        # Its own form saves memory in place, since inside vmap nothing says that a gradient is wanted.
        with patch.object(mlp, "squared_relu", _squared_relu):
            losses(parameters, buffers, inputs, labels).sum().backward()
        gradients = [one.grad for one in parameters.values() if one.grad is not None]
        norms = sum(one.flatten(1).square().sum(1) for one in gradients)
        factors = (settings.training.clip / (torch.as_tensor(norms).sqrt() + 1e-6)).clamp(max=1.0)
        for one in gradients:
            one.mul_(factors.view(-1, *[1] * (one.dim() - 1)))
        optimizer.step()

    def with_torchs_layers() -> None:
        with patch.object(linear, "_has_kernel", lambda: False):
            one_after_another()

    ways = {"one after another": one_after_another, "together": together, "torch's layers": with_torchs_layers}
    alone, joined, before = turns(ways, arguments.rounds, time.process_time).values()
    # Products of our own kernel are not counted.
    with patch.object(linear, "_has_kernel", lambda: False), FlopCounterMode(display=False) as counter:
        objective(models[0], batches[0], moment).backward()
    operations, rate = counter.get_total_flops(), measure_ceilings(torch.device("cpu"), clock=time.process_time).fp32
    return {
        "members": arguments.members,
        "gflop": operations / 1e9,
        "gflop_per_s": rate / 1e9,
        "products_alone_ms": 1000 * operations / rate,
        "one_after_another_ms": 1000 * statistics.median(alone) / arguments.members,
        "together_ms": 1000 * statistics.median(joined) / arguments.members,
        "times_faster": ratio(alone, joined).median,
        "one_after_another_with_torchs_linear_layers_ms": 1000 * statistics.median(before) / arguments.members,
        "times_faster_than_these": ratio(before, alone).median,
    }


def _squared_relu(x: Tensor, *, spare: bool = False) -> Tensor:
    return torch.relu(x).square()


if __name__ == "__main__":
    main()
