"""Event files for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medformer.training.trackers.tracking import Ending, Logged, Tracker, require

FOLDER = "tensorboard"


class TensorBoardTracker(Tracker):
    """Writes event files to `tensorboard/` in the folder of the training; `tensorboard --logdir RUN` shows all folds.

    Each epoch is one record, flushed to the file at once, so that a killed process leaves whole epochs. (The usual
    writer hands records to a thread, which prints a traceback when the disk is full.) A resumed training adds another
    file to the folder, with the epochs that are not in it yet.

    Args:
        folder: Of the training.
        run: Not used: event files lie with the training that they are about.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder = folder / FOLDER
        self._summary = require("torch.utils.tensorboard.summary", "tensorboard")
        self._proto = require("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._records = require("tensorboard.summary.writer.record_writer", "tensorboard")
        self._reader = require("tensorboard.backend.event_processing.event_accumulator", "tensorboard")
        self._writer: Any = None

    def start(self, name: str, params: Mapping[str, str]) -> Logged:
        """Read what is there and open a new file; the first one also holds the settings, as text."""
        self.close("finished")
        self.folder.mkdir(parents=True, exist_ok=True)
        files = list(event_files(self.folder))
        logged = self._read() if files else set()
        # TensorBoard reads the files in the order of their names.
        path = self.folder / f"events.out.tfevents.{int(time.time()):010d}.{len(files):04d}"
        self._writer = self._records.RecordWriter(open(path, "xb"))  # noqa: SIM115 - open from epoch to epoch
        self._write(self._proto.Event(file_version="brain.Event:2"))
        if not files:
            rows = "".join(f"| {key} | {value} |\n" for key, value in {"name": name, **params}.items())
            self._write(self._proto.Event(step=0, summary=self._summary.text("settings", f"| | |\n|-|-|\n{rows}")))
        return logged

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one record with all numbers of an epoch."""
        event = self._proto.Event(step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._write(event)

    def close(self, ending: Ending) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def _read(self) -> Logged:
        # 0: keep every scalar; the default drops some of long curves.
        events = self._reader.EventAccumulator(str(self.folder), size_guidance={"scalars": 0})
        events.Reload()
        return {(tag, event.step) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}


def event_files(folder: Path) -> list[Path]:
    """Return the event files in a folder."""
    return sorted(folder.glob("events.out.tfevents.*"))
