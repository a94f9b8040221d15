"""Where the folds of a cross-validation run: one after another in this process, or as Ray tasks."""

from __future__ import annotations

from medformer.config.shared import ExecutionConfig
from medformer.crossval.run.execute import Executor, InlineExecutor


def build_executor(config: ExecutionConfig) -> Executor:
    """Return the executor that a config asks for; nothing is started yet.

    Raises:
        ConfigError: It needs a package that is not installed.
    """
    if config.executor == "inline":
        return InlineExecutor()
    from medformer.crossval.run.executors.ray import RayExecutor

    return RayExecutor(
        address=config.address,
        workers=config.workers,
        cpus_per_fold=config.cpus_per_fold,
        gpus_per_fold=config.gpus_per_fold,
    )
