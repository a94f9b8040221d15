"""Data-parallel training in separate processes; progress and typed errors come back to this one."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.multiprocessing.spawn import ProcessException

from medformer.errors import ConfigError, MedformerError, ResourceError
from medformer.progress import Reporter, SilentReporter
from medformer.training.job import FitResult, Job
from medformer.training.signals import stop_on_signals

Work = Callable[[Fabric, nn.Module, Job, Reporter], FitResult]


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
        return dict(vars(work(fabric, model, parcel.job, reporter)))
    except MedformerError as error:
        channel.put(("error", (error,), {}))
        raise


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
