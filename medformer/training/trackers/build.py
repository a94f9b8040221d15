"""Trackers: learning curves for TensorBoard and MLflow to show, beside the files that are always written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medformer.errors import ConfigError
from medformer.files import read_json, write_json
from medformer.registry import Entry, Registry
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


LOCAL_STORE = "mlruns"
RUN_FILE = "mlflow.json"
_STATUS: dict[Ending, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_LONGEST_PARAM = 500
"""Characters of a setting that every MLflow server takes."""


class MlflowTracker(Tracker):
    """Logs to the server that `MLFLOW_TRACKING_URI` names; without it, to files in `mlruns/` of the run folder.

    By itself it sends nothing anywhere: MLflow's reports on its use to its makers are off unless
    `MLFLOW_DISABLE_TELEMETRY` says otherwise. The local store is MLflow's file store, the one that its small package
    (mlflow-skinny) can write; MLflow keeps it working but adds nothing to it and wants `MLFLOW_ALLOW_FILE_STORE=true`,
    which is set here for this process. Look at it with `MLFLOW_ALLOW_FILE_STORE=true mlflow ui` in the run folder, or
    move it to a database with `mlflow migrate-filestore`.

    Every training is an MLflow run, named by its folder; the run folder is the experiment (`MLFLOW_EXPERIMENT_NAME`
    names another). The id of the run is kept in `mlflow.json` beside the weights, so that a resumed training goes on
    with it. A server that does not answer is waited for 10 seconds, twice, instead of MLflow's many minutes
    (`MLFLOW_HTTP_REQUEST_TIMEOUT`, `MLFLOW_HTTP_REQUEST_MAX_RETRIES`).

    Args:
        folder: Of the training.
        run: Folder of the whole run.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self.file = folder / RUN_FILE
        self.experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.resolve().name
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        self.local = not self.uri
        if self.local:
            self.uri = (run.resolve() / LOCAL_STORE).as_uri()
        elif self.uri.split(":")[0].split("+")[0] in _DATABASES and find_spec("sqlalchemy") is None:
            raise ConfigError(
                "MLFLOW_TRACKING_URI names a database, which the small package mlflow-skinny cannot write. Run: "
                "pip install mlflow, or give the address of a server, or unset it to log to the run folder."
            )
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        # Before the import, which would already report.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self._mlflow = require("mlflow", "mlflow")
        self._client: Any = None
        self._run_id = ""

    def start(self, name: str, params: Mapping[str, str]) -> Logged:
        """Continue the run that the folder names, or make one."""
        # Folds that start at the same moment can trip over each other while they set up the files.
        for attempt in range(5 if self.local else 1):
            try:
                self._client = self._mlflow.MlflowClient(tracking_uri=self.uri)
                self._run_id = self._continue() or self._create(name)
                break
            except (self._mlflow.MlflowException, OSError):
                if not self.local or attempt == 4:
                    raise
                time.sleep(0.1 * 2**attempt)
        data = self._client.get_run(self._run_id).data
        for key, value in params.items():
            if key not in data.params:
                self._client.log_param(self._run_id, key, value[:_LONGEST_PARAM])
        return {
            (key, metric.step) for key in data.metrics for metric in self._client.get_metric_history(self._run_id, key)
        }

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send all numbers of an epoch in one request."""
        metric, now = self._mlflow.entities.Metric, int(time.time() * 1000)
        self._client.log_batch(self._run_id, [metric(key, value, now, step) for key, value in values.items()])

    def close(self, ending: Ending) -> None:
        """Give the run its final status."""
        if self._run_id:
            self._client.set_terminated(self._run_id, _STATUS[ending])

    def _continue(self) -> str:
        """Return the id of the run that this training began before, if the store still has it."""
        run_id = self._run_id or self._noted()
        if not run_id:
            return ""
        try:
            info = self._client.get_run(run_id).info
        except self._mlflow.MlflowException as error:
            # Begun in another store: this one gets the whole curve.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise
        if info.lifecycle_stage != "active":
            return ""
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _noted(self) -> str:
        # Without its note, this training begins anew where it is tracked.
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(read_json(self.file)["run_id"])
        return ""

    def _create(self, name: str) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self._run_id = str(self._client.create_run(experiment, run_name=name).info.run_id)
        write_json(self.file, {"run_id": self._run_id})
        return self._run_id


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
