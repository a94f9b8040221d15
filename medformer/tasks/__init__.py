"""The clinical tasks, by name: each opens a study of its cases, and loads the predictors of its runs."""

from __future__ import annotations

from medformer.crossval.run.contract import Task
from medformer.registry import Entry, Registry


def _tasks() -> Registry[Task]:
    from medformer.tasks.abide.study import AbideTask
    from medformer.tasks.polyp.study import PolypTask
    from medformer.tasks.volume.study import VolumeTask

    return Registry(
        "task",
        [
            Entry("polyp", PolypTask(), "polyp segmentation in colonoscopy images"),
            Entry("abide", AbideTask(), "autism against control from functional connectomes"),
            Entry("volume", VolumeTask(), "segmentation and classification of 3-D scans"),
        ],
    )


def get_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        UnknownNameError: There is none of this name.
    """
    return _tasks()[name].part
