"""Where the folds of a cross-validation run: one after another in this process, in several, or as Ray tasks."""

from __future__ import annotations

import math

from medformer.config.shared import ExecutionConfig
from medformer.crossval.run.execute import Executor, InlineExecutor
from medformer.errors import ConfigError


def build_executor(config: ExecutionConfig) -> Executor:
    """Return the executor that a config asks for; nothing is started yet.

    Raises:
        ConfigError: It needs a package that is not installed, or settings do not suit it.
    """
    if config.executor == "inline":
        return InlineExecutor()
    if config.executor == "processes":
        from medformer.crossval.run.executors.processes import ProcessExecutor

        if config.address is not None:
            raise ConfigError(
                f"execution.address={config.address} is a Ray cluster, and execution.executor=processes runs the folds "
                "on this machine. Leave it out, or use --executor ray."
            )
        return ProcessExecutor(
            workers=config.workers, cpus_per_fold=config.cpus_per_fold, gpus_per_fold=config.gpus_per_fold
        )
    from medformer.crossval.run.executors.ray import RayExecutor

    return RayExecutor(
        address=config.address,
        workers=config.workers,
        cpus_per_fold=config.cpus_per_fold,
        gpus_per_fold=config.gpus_per_fold,
    )


def fold_threads(config: ExecutionConfig) -> int | None:
    """Threads that each fold computes with; None for those of the process that the run is started in."""
    return math.ceil(config.cpus_per_fold) if config.executor == "processes" else None
