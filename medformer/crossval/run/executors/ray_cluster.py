"""Starting Ray on this machine, or connecting to a cluster of it, with clear words when that fails."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medformer.errors import ConfigError, ResourceError
from medformer.progress import Reporter
from medformer.training.worker_choice import cores

CONNECT_WITHIN = 30.0
"""Seconds that a cluster has to answer."""

# The job is the only object, and it is small.
_OBJECT_STORE = 128 * 2**20
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_PROBE = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def import_ray() -> Any:
    """Import Ray.

    Raises:
        ConfigError: It is not installed.
    """
    # Ray sends usage statistics unless this is set before it starts.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A fold is the main work of its machine; at 15, the niceness of Ray's workers, any other program starves it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"execution.executor=ray needs Ray, which cannot be imported ({error}). "
            "Install it with: pip install 'medformer[cluster]', or use --executor inline."
        ) from error


@contextmanager
def ray_cluster(ray: Any, address: str | None, *, least: int = 0) -> Iterator[None]:
    """Have Ray inside the block; a Ray that already runs in this process is used and left as it is.

    Args:
        ray: The package.
        address: A cluster's; None starts one on this machine and ends it afterwards.
        least: Processors that one started here has at least, whatever the machine has.

    Raises:
        ResourceError: Ray does not start, or the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            if address is None:
                _start(ray, max(cores(), least))
            else:
                _connect(ray, address)
        except SystemExit as error:
            # Ray's own handler of SIGTERM, which is there from its first moment on.
            raise KeyboardInterrupt from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()


def check_size(ray: Any, address: str | None, cpus: float, gpus: float, reporter: Reporter) -> None:
    """Hold what a fold asks for against what Ray has.

    Args:
        ray: The package, initialized.
        address: The cluster's; None for a Ray started here.
        cpus: Processors of a fold.
        gpus: GPUs of a fold.
        reporter: Receives notes on what does not fit but may be intended.

    Raises:
        ConfigError: A fold asks for more than this machine has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus == 0 and any(node.get("GPU") for node in nodes):
        reporter.line(
            "Note: Ray has GPUs, but execution.gpus_per_fold is 0: folds that use one all use the same. "
            "--gpus-per-fold 1 gives each fold its own, 0.5 one to every two."
        )
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    wanted = f"A fold asks for {cpus:g} CPUs and {gpus:g} GPUs (execution.cpus_per_fold, execution.gpus_per_fold)"
    if address is not None:
        # A cluster may grow when something waits for it.
        reporter.line(f"{wanted}; no machine of the cluster has them now. Waiting for one; Ctrl-C stops.")
        return
    found = nodes[0] if nodes else {}
    raise ConfigError(
        f"{wanted}, but this machine has {found.get('CPU', 0):g} and {found.get('GPU', 0):g}. Ask for less."
    )


def _start(ray: Any, processors: int) -> None:
    try:
        # "local" starts one also where RAY_ADDRESS names a cluster.
        ray.init("local", num_cpus=processors, include_dashboard=False, object_store_memory=_OBJECT_STORE, **_QUIET)
    except Exception as error:
        raise ResourceError(
            f"Ray did not start on this machine: {_last_line(str(error))} Remove the cause, or use --executor inline."
        ) from error


def _connect(ray: Any, address: str) -> None:
    """Connect once a process of its own has: Ray waits minutes for a silent address, and nothing can interrupt it."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address], capture_output=True, text=True, timeout=CONNECT_WITHIN, check=False
        )
        reason = _last_line(probe.stderr) if probe.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"there was no answer within {CONNECT_WITHIN:g} s."
    if not reason:
        try:
            ray.init(address, **_QUIET)
            return
        except Exception as error:
            reason = _last_line(str(error))
    raise ResourceError(
        f"Cannot reach a Ray cluster at {address}: {reason} Check the address (auto on a machine of the cluster, "
        "host:6379, or ray://host:10001 from outside) and that `ray status` answers there; without --address, Ray is "
        "started on this machine."
    )


def _last_line(text: str) -> str:
    line = (text.strip().splitlines() or ["no reason was given"])[-1]
    return line if line.endswith(".") else f"{line}."
