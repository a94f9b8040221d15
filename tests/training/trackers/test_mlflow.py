from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medformer.errors import ConfigError, DivergenceError, InterruptedRun
from medformer.files import read_csv, read_json
from medformer.progress import SilentReporter
from medformer.training.trackers.build import MlflowTracker

pytest.importorskip("mlflow")

CONFIG = {"tracker": "mlflow"}
VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_ALLOW_FILE_STORE",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        # Set first, so that what the tracker sets is taken back as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield


def client(store: Path) -> Any:
    from mlflow import MlflowClient

    # The tracker's own process has set it by now; a test that looks at another process's store has not.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient(tracking_uri=store.as_uri())


def runs(store: Path) -> list[Any]:
    found = client(store)
    return [run for part in found.search_experiments() for run in found.search_runs([part.experiment_id])]


def metrics(store: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    found = client(store)
    return {
        name: [(metric.step, metric.value) for metric in found.get_metric_history(run_id, name)]
        for name in found.get_run(run_id).data.metrics
    }


def curve(folder: Path) -> dict[str, list[tuple[int, float]]]:
    rows = read_csv(folder / "history.csv")
    return {
        name: [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
        for name in rows[0]
        if name != "epoch" and any(row[name] for row in rows)
    }


class StopAfterEpoch(SilentReporter):
    """Sends this process SIGTERM when an epoch has been said to be over."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith("Epoch"):
            os.kill(os.getpid(), signal.SIGTERM)


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_holds_what_history_holds(tiny: ModuleType, tmp_path: Path) -> None:
    fold = tmp_path / "study/folds/2"
    tiny.train(fold, config=CONFIG, run=tmp_path / "study", metadata={"fold": 2, "model": {"name": "tiny"}})
    [run] = runs(tmp_path / "study/mlruns")
    assert metrics(tmp_path / "study/mlruns", run.info.run_id) == curve(fold) and len(curve(fold)) == 7
    assert (run.info.run_name, run.info.status) == ("folds/2", "FINISHED")
    assert run.data.params["training.lr"] == "0.02" and run.data.params["metadata.model.name"] == "tiny"
    experiment = client(tmp_path / "study/mlruns").get_experiment(run.info.experiment_id)
    assert experiment.name == "study"


def test_tracking_changes_no_bit_of_the_training(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path / "a", config=CONFIG)
    tiny.train(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert tiny.curve(tmp_path / "a") == tiny.curve(tmp_path / "b")


def test_a_resumed_training_goes_on_with_its_run(tiny: ModuleType, tmp_path: Path) -> None:
    stops = 0
    while True:
        try:
            tiny.train(tmp_path, config=CONFIG, reporter=StopAfterEpoch(), resume=stops > 0)
            break
        except InterruptedRun:
            stops += 1
            [run] = runs(tmp_path / "mlruns")
            assert run.info.status == "KILLED"
    [run] = runs(tmp_path / "mlruns")
    assert stops == 3 and run.info.status == "FINISHED"
    assert metrics(tmp_path / "mlruns", run.info.run_id) == curve(tmp_path)
    assert [step for step, _ in curve(tmp_path)["train_loss"]] == [1, 2, 3]


def test_an_epoch_that_a_killed_process_did_not_log_is_made_up_for(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowTracker, "log", killed)
        tiny.train(tmp_path, config=CONFIG)
    [run] = runs(tmp_path / "mlruns")
    assert run.data.metrics == {} and len(tiny.curve(tmp_path)) == 1
    tiny.train(tmp_path, config=CONFIG, resume=True)
    assert metrics(tmp_path / "mlruns", run.info.run_id) == curve(tmp_path)


def test_a_diverged_training_is_a_failed_run(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError):
        tiny.train(tmp_path, data=tiny.Squares(faults={1: float("nan"), 2: float("nan")}), config=CONFIG)
    [run] = runs(tmp_path / "mlruns")
    assert run.info.status == "FAILED"


def test_training_anew_begins_another_run(tiny: ModuleType, tmp_path: Path) -> None:
    for _ in range(2):
        tiny.train(tmp_path, config={**CONFIG, "epochs": 1})
    assert [len(metrics(tmp_path / "mlruns", run.info.run_id)["best"]) for run in runs(tmp_path / "mlruns")] == [1, 1]


def test_the_store_of_the_environment_is_used_and_gets_the_whole_curve(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.train(tmp_path / "out", config=CONFIG)
    first = read_json(tmp_path / "out/mlflow.json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "server").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "polyps")
    tiny.train(tmp_path / "out", config=CONFIG, resume=True)
    [run] = runs(tmp_path / "server")
    assert metrics(tmp_path / "server", run.info.run_id) == curve(tmp_path / "out")
    assert client(tmp_path / "server").get_experiment(run.info.experiment_id).name == "polyps"
    assert read_json(tmp_path / "out/mlflow.json") == {"run_id": run.info.run_id} != first


def test_folds_that_start_together_share_one_store(tmp_path: Path) -> None:
    trackers = [MlflowTracker(tmp_path / f"folds/{fold}", tmp_path) for fold in range(4)]
    together = threading.Barrier(4)
    failures: list[Exception] = []

    def start(fold: int) -> None:
        together.wait()
        try:
            trackers[fold].start(f"folds/{fold}", {"seed": "0"})
            trackers[fold].log(1, {"loss": float(fold)})
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(fold,)) for fold in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {(run.info.run_name, run.data.metrics["loss"]) for run in runs(tmp_path / "mlruns")} == {
        (f"folds/{fold}", float(fold)) for fold in range(4)
    }


def test_a_server_that_does_not_answer_is_said_once_and_costs_nothing(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    listener = Listener()
    result = tiny.train(tmp_path, config=CONFIG, reporter=listener)
    assert result.ended == "epochs" and len(tiny.curve(tmp_path)) == 3
    said = [line for line in listener.lines if "tracker" in line]
    assert len(said) == 1 and "127.0.0.1" in said[0] and "Training goes on" in said[0]
    assert "secret" not in said[0]
    assert not (tmp_path / "mlruns").exists()


def test_a_database_is_refused_before_the_training_if_it_cannot_be_written(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setattr("medformer.training.trackers.build.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install mlflow"):
        tiny.train(tmp_path / "out", config=CONFIG)
    assert not (tmp_path / "out").exists()


def test_nothing_leaves_the_machine(tiny: ModuleType, tmp_path: Path) -> None:
    # In a process of its own, and not one that MLflow takes for a test or for continuous integration: there it is
    # silent anyway.
    code = """
import socket, sys
asked = []
def refuse(*arguments, **_):
    asked.append(arguments)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import tiny_training
tiny_training.train(Path(sys.argv[1]), config={"tracker": "mlflow"})
import threading
print("asked", asked, [thread.name for thread in threading.enumerate()])
"""
    unwanted = ("MLFLOW", "DO_NOT_TRACK", "PYTEST", "CI", "GITHUB", "GITLAB", "BUILD", "JENKINS", "CODEBUILD", "TRAVIS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(tiny.__file__).parent)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "asked [] ['MainThread']"
    assert len(runs(tmp_path / "mlruns")) == 1
