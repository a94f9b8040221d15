"""The clinical tasks, by name: each opens a study of its cases, and loads the predictors of its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from medformer.errors import UnknownNameError

if TYPE_CHECKING:
    from medformer.crossval.run.contract import Task


def _polyp() -> Task:
    from medformer.tasks.polyp.task import PolypTask

    return PolypTask()


def _abide() -> Task:
    from medformer.tasks.abide.task import AbideTask

    return AbideTask()


def _volume() -> Task:
    from medformer.tasks.volume.task import VolumeTask

    return VolumeTask()


_TASKS: Mapping[str, Callable[[], Task]] = {"polyp": _polyp, "abide": _abide, "volume": _volume}
"""What makes each task; only the one that is asked for is imported."""


def get_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        UnknownNameError: There is none of this name.
    """
    if name not in _TASKS:
        raise UnknownNameError("task", name, _TASKS)
    return _TASKS[name]()
