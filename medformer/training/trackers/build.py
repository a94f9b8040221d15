"""From a tracker's name in a config to a tracker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medformer.registry import Entry, Registry
from medformer.training.trackers.mlflow import RUN_FILE, MlflowTracker
from medformer.training.trackers.tensorboard import FOLDER, TensorBoardTracker, event_files
from medformer.training.trackers.tracking import Tracker

TRACKERS: Registry[Callable[[Path, Path], Tracker]] = Registry(
    "tracker",
    [
        Entry("none", lambda folder, run: Tracker(), "nothing beside history.csv and history.jsonl"),
        Entry("tensorboard", TensorBoardTracker, "event files in tensorboard/ of each fold (extra tensorboard)"),
        Entry("mlflow", MlflowTracker, "MLFLOW_TRACKING_URI, or mlruns/ in the run folder (extra mlflow)"),
    ],
)


def build_tracker(name: str, folder: Path, run: Path) -> Tracker:
    """Return a tracker; nothing is written before it starts.

    Args:
        name: Of the table.
        folder: Of the training.
        run: Folder of the whole run, of which the training may be one fold.

    Raises:
        UnknownNameError: No such tracker.
        ConfigError: Its package is not installed.
    """
    return TRACKERS[name].part(folder, run)


def forget_tracked(folder: Path) -> None:
    """Make the next training in a folder begin anew wherever it is tracked."""
    for path in (folder / RUN_FILE, *event_files(folder / FOLDER)):
        path.unlink(missing_ok=True)
