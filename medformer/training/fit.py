"""Training a network: one call.

    fit(model, objective, train_data, validate, config, *, out, seed, workers=0, resume=False, metadata=None, run=None,
        reporter=None) -> FitResult

`objective` turns a batch into a loss (`medformer.training.losses.objectives`), `train_data` gives the items
(`medformer.data.network_inputs.TrainingData`), `validate` scores the inner validation part and says by its `measure`
what the score is (`medformer.training.job.Validate`), and is None to train to the end.
"""

from __future__ import annotations

from typing import Unpack

from lightning_fabric import Fabric
from torch import nn

from medformer.config.shared import TrainingConfig
from medformer.data.network_inputs import TrainingData
from medformer.errors import DataError, enough_memory
from medformer.progress import Reporter, SilentReporter
from medformer.training.devices import build_fabric
from medformer.training.failures import MemoryContext
from medformer.training.job import FitResult, Job, RunOptions, Validate
from medformer.training.loop import Loop
from medformer.training.losses.objectives import Objective
from medformer.training.processes import run_in_processes
from medformer.training.saving.checkpoint import load_model
from medformer.training.signals import stop_on_signals
from medformer.training.trackers.build import build_tracker
from medformer.training.trackers.tracking import Tracking

__all__ = ["FitResult", "fit"]


def fit(
    model: nn.Module,
    objective: Objective,
    train_data: TrainingData,
    validate: Validate | None,
    config: TrainingConfig,
    *,
    reporter: Reporter | None = None,
    **options: Unpack[RunOptions],
) -> FitResult:
    """Train `model`, keep the best averaged weights in `out`, and leave them in the model, in evaluation mode.

    Writes `model.safetensors` (weights to use), `state.safetensors` (for resuming; on a signal, after an epoch if
    `config.save_minutes` have passed since it was written, and, small, at the end), and `history.csv` and
    `history.jsonl`, whose rows `config.tracker` receives too. With `config.minutes` the run ends when that time is
    spent, wherever in an epoch it is, and `config.epochs` is not looked at; the time includes validation.

    `config.batch_size` is per process, and N processes train as one with N times the batch size does, up to rounding:
    they share each batch, its gradient and the statistics of its batch normalizations. What remains of each process are
    the draws of dropout, stochastic depth and masks, and a loss that is no mean over cases (`batch_dice`).

    Args:
        model: Takes and returns what the objective gives and expects.
        objective: Turns the model and a batch into a loss.
        train_data: Items by (epoch, index); see `TrainingData`.
        validate: Scores the inner validation part, the only thing that chooses weights and stops early.
        config: How to train.
        reporter: Receives every step and epoch.
        **options: Where and how it runs: `out`, `seed`, `workers`, `resume`, `metadata` and `run` (`RunOptions`).

    Raises:
        InterruptedRun: SIGINT or SIGTERM; the state is saved first.
        DivergenceError: Loss, gradient or validation is not finite; names epoch, step and cases.
        ResourceError: Memory, disk or device is lacking; names sizes and what to try.
        CheckpointError: The state on disk is damaged or of another training.
        ConfigError: The package of `config.tracker` is not installed, or the job cannot be copied to other processes.
        DataError: There are no cases, or one cannot be read.
    """
    if len(train_data) == 0:
        raise DataError("There are no training cases; expected at least one. Check the manifest and the split.")
    job = Job(objective=objective, data=train_data, validate=validate, config=config, **options)
    fabric = build_fabric(config)
    if fabric.strategy.launcher is None:
        result = _train(fabric, model, job, reporter or SilentReporter())
    else:
        result = run_in_processes(fabric, model, job, _train, reporter or SilentReporter())
    load_model(result.weights, model)
    model.eval()
    return result


def _train(fabric: Fabric, model: nn.Module, job: Job, reporter: Reporter) -> FitResult:
    memory = MemoryContext(job.config, sum(parameter.numel() for parameter in model.parameters()))
    # One process reports for all.
    tracker = build_tracker(job.config.tracker if fabric.is_global_zero else "none", job.out, job.run or job.out)
    with (
        enough_memory(memory.advice),
        stop_on_signals() as stop,
        Tracking(tracker, job.name, job.identity(model), reporter) as tracking,
    ):
        loop = Loop(fabric, model, job, stop=stop, reporter=reporter, memory=memory, tracking=tracking)
        try:
            return loop.run()
        finally:
            reporter.finish()
            loop.close()
