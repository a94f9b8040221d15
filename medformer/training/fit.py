"""Training a network: one call.

    fit(model, objective, train_data, validate, config, *, out, seed, workers=0, resume=False, metadata=None, run=None,
        reporter=None) -> FitResult

`objective` turns a batch into a loss (`medformer.training.losses.objectives`), `train_data` gives the items
(`medformer.data.network_inputs.TrainingData`), `validate` scores the inner validation part and says by its `measure`
what the score is (`medformer.training.job.Validate`), and is None to train to the end.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

import torch.distributed
from torch import nn
from torch.multiprocessing.spawn import ProcessException

from medformer.config.shared import TrainingConfig
from medformer.data.network_inputs import TrainingData
from medformer.errors import ConfigError, DataError, MedformerError, ResourceError, enough_memory
from medformer.progress import Reporter, SilentReporter
from medformer.training.compilation import compiled
from medformer.training.devices import build_fabric, is_distributed
from medformer.training.job import FitResult, Job, RunOptions, Validate
from medformer.training.loop import Loop
from medformer.training.losses.objectives import MemoryContext, Objective
from medformer.training.processes.unused import unused_parameters
from medformer.training.saving import load_model
from medformer.training.signals import stop_on_signals
from medformer.training.trackers.build import build_tracker
from medformer.training.trackers.tracking import Tracking

if TYPE_CHECKING:
    from lightning_fabric import Fabric

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
    if config.precision == "auto":
        # A run decides it before its folds train (`medformer.crossval.run.begin.precision`); none did.
        config = config.model_copy(update={"precision": "32-true"})
    job = Job(objective=objective, data=train_data, validate=validate, config=config, **options)
    unused = is_distributed(config) and unused_parameters(model, objective, train_data[(0, 0)]) != ()
    fabric = build_fabric(config, unused=unused)
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
        compiled(model, job.config.compile),
    ):
        loop = Loop(fabric, model, job, stop=stop, reporter=reporter, memory=memory, tracking=tracking)
        try:
            return loop.run()
        finally:
            reporter.finish()
            loop.close()


Work = Callable[["Fabric", nn.Module, Job, Reporter], FitResult]


def run_in_processes(fabric: Fabric, model: nn.Module, job: Job, work: Work, reporter: Reporter) -> FitResult:
    """Run `work` in every process of a data-parallel engine and return what the first one gives.

    A signal to this process is passed on; Ctrl-C reaches the others by itself.

    Args:
        fabric: An engine that starts processes.
        model: Copied to each process; this one's stays as it is.
        job: Copied to each process, so its data and validation must be picklable.
        work: A function at module level.
        reporter: Receives what the first process reports.

    Raises:
        MedformerError: What a process raised.
        ConfigError: The job cannot be copied to another process.
        ResourceError: A process died.
    """
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    before = {child.pid for child in multiprocessing.active_children()}

    def pass_on() -> None:
        for child in multiprocessing.active_children():
            if child.pid not in before and child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)

    relay = _Relay(channel, reporter)
    try:
        with stop_on_signals(pass_on):
            values = fabric.launch(_run_one, model, _Parcel(job), work, channel)
    except ProcessException as error:
        relay.close()
        if relay.errors:
            raise relay.errors[0] from None
        raise ResourceError(
            f"A training process ended early: {str(error).strip().splitlines()[-1]}. The state in {job.out} is that of "
            "the last complete epoch; look for a lack of memory, lower training.devices, and continue with --resume."
        ) from error
    except (AttributeError, TypeError, ValueError, OSError) as error:
        if "pickle" not in str(error).lower():
            raise
        raise ConfigError(
            f"training.devices > 1 copies data and validation to other processes, and that failed: {error}. "
            "Use functions and classes at module level, or training.devices=1."
        ) from error
    finally:
        relay.close()
    return FitResult(**values)


class _Parcel:
    """Hides the job from Fabric, which would look for modules in it and refuses frozen dataclasses."""

    def __init__(self, job: Job) -> None:
        self.job = job


def _run_one(fabric: Fabric, model: nn.Module, parcel: _Parcel, work: Work, channel: Any) -> dict[str, Any]:
    reporter: Reporter = _RelayReporter(channel) if fabric.is_global_zero else SilentReporter()
    try:
        values = dict(vars(work(fabric, model, parcel.job, reporter)))
    except MedformerError as error:
        channel.put(("error", (error,), {}))
        raise
    # Fabric leaves the group of a CPU training to the end of the interpreter, where its threads at times abort the
    # process. All leave it together, so that no one is still sending to a process that is gone.
    fabric.barrier()
    torch.distributed.destroy_process_group()
    return values


class _RelayReporter(Reporter):
    """Sends every call to the process that has the terminal."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def start(self, label: str, total: int | None) -> None:
        self._channel.put(("start", (label, total), {}))

    def advance(self, n: int = 1, **fields: float) -> None:
        self._channel.put(("advance", (n,), fields))

    def line(self, text: str) -> None:
        self._channel.put(("line", (text,), {}))

    def finish(self) -> None:
        self._channel.put(("finish", (), {}))


class _Relay:
    """Reads the channel in a thread until closed: reports go to the reporter, errors are kept."""

    def __init__(self, channel: Any, reporter: Reporter) -> None:
        self.errors: list[MedformerError] = []
        self._channel = channel
        self._reporter = reporter
        self._closing = threading.Event()
        # A daemon: a process killed while writing can leave half a message, which would be waited for without end.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read what is left and stop."""
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _read(self) -> None:
        while True:
            try:
                name, values, fields = self._channel.get(timeout=0.1)
            except queue.Empty:
                if self._closing.is_set():
                    return
                continue
            if name == "error":
                self.errors.append(values[0])
            else:
                getattr(self._reporter, name)(*values, **fields)
