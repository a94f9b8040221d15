"""Folds in other processes, as Ray tasks or without: the same table as inline, whatever dies, fails or is stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from medformer.config import PolypConfig
from medformer.config.shared import ExecutionConfig
from medformer.crossval.plan import Fold, Plan
from medformer.crossval.run import runner
from medformer.crossval.run.collect import collect
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import Executor, FoldJob, InlineExecutor, execute
from medformer.crossval.run.executors import build_executor, processes, ray_cluster
from medformer.crossval.run.executors.session import RETRIES
from medformer.crossval.run.executors.worker import Order, Threads, run_order
from medformer.crossval.run.journal import FoldState, read_state
from medformer.errors import ConfigError, DataError, InterruptedRun, ResourceError, UnknownNameError
from medformer.files import read_csv
from medformer.progress import Reporter, SilentReporter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


class Lines(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


def make_job(
    pause: float = 0.0,
    failures: dict[int, Exception] | None = None,
    dies: int | None = None,
    waits: tuple[int, ...] = (),
) -> FoldJob:
    """A job with a checkpoint after each row. It is local, so that it travels to workers by value.

    The folds of `waits` wait after two rows of their first attempt, until a signal comes.
    """

    class Job:
        def __init__(self) -> None:
            self.reporter: Reporter = SilentReporter()

        def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
            from medformer.files import read_csv, write_csv

            if failures and fold.index in failures:
                raise failures[fold.index]
            partial = folder / "partial.csv"
            rows: list[dict[str, Any]] = read_csv(partial) if resume and partial.exists() else []
            if rows:
                self.reporter.line(f"Resuming after {len(rows)} rows.")
            self.reporter.start("rows", len(fold.test))
            for name in fold.test[len(rows) :]:
                import torch

                sum_ = torch.arange(1e5).reciprocal_()[1:].sum().item()
                rows.append({"id": name, "value": sum_ * len(rows), "threads": torch.get_num_threads()})
                write_csv(partial, rows, ["id", "value", "threads"])
                if dies == fold.index:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(pause)
                while fold.index in waits and not resume and len(rows) == 2:
                    time.sleep(0.01)
                self.reporter.advance()
            self.reporter.finish()
            write_csv(folder / "predictions.csv", rows, ["id", "value", "threads"])

    return Job()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


THREADS = 3
"""Of a fold; a number that neither the environment nor Ray would choose."""


@pytest.fixture(scope="module")
def processes_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """Two processes, for all tests of this file, started by a script that they must not run again."""
    folder = tmp_path_factory.mktemp("script")
    script, main = folder / "script.py", ModuleType("__main__")
    script.write_text(f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n", "utf-8")
    main.__file__ = str(script)
    config = ExecutionConfig(executor="processes", workers=2, cpus_per_fold=THREADS)
    with pytest.MonkeyPatch.context() as patched, build_executor(config) as executor:
        patched.setitem(sys.modules, "__main__", main)
        yield executor
        assert sys.modules["__main__"] is main
    assert not (folder / "ran").exists()
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


@pytest.fixture(scope="module")
def rays() -> Iterator[Executor]:
    """Two workers of a Ray on this machine, likewise."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with build_executor(ExecutionConfig(executor="ray", workers=2)) as executor:
        yield executor
    assert not ray.is_initialized()


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Any:
    """Processes, or the workers of Ray where a test says so."""
    return request.getfixturevalue(getattr(request, "param", "processes_"))


BOTH = pytest.mark.parametrize("cluster", ["processes_", "rays"], indirect=True)
RAY = pytest.mark.parametrize("cluster", ["rays"], indirect=True)


@pytest.fixture
def inline_table(plan: Plan, tmp_path: Path) -> bytes:
    run = RunDirectory.create(tmp_path / "inline")
    execute(plan, make_job(), run)
    return collect(run, plan).read_bytes()


def states(run: RunDirectory, plan: Plan) -> list[FoldState]:
    return [read_state(run.fold(fold.index), fold.index, plan.digest()) for fold in plan.folds]


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act from a thread, as somebody outside would, once something is so."""

    def watch() -> None:
        while not condition():
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def rows_of(run: RunDirectory, index: int) -> int:
    try:
        return len(read_csv(run.fold(index) / "partial.csv"))
    except OSError:
        return 0


@BOTH
def test_other_processes_give_the_table_of_the_inline_executor(
    cluster: Any, plan: Plan, run: RunDirectory, inline_table: bytes
) -> None:
    said = Lines()
    execute(plan, make_job(), run, said, cluster)
    assert collect(run, plan).read_bytes() == inline_table
    assert inline_table.count(b",3\n") == len(plan.cases)
    for index in range(3):
        first, *_, last = [line for line in said.said if line.startswith(f"Fold {index}: ")]
        assert f"{len(plan.folds[index].test)} test; process " in first
        assert last == f"Fold {index}: done."
    assert {state.pid for state in states(run, plan)}.isdisjoint({os.getpid(), 0})
    again = Lines()
    execute(plan, make_job(), run, again, cluster)
    assert [line.partition(": ")[2] for line in again.said] == ["already done."] * 3


@BOTH
def test_a_killed_worker_process_leaves_the_same_table(
    cluster: Any, plan: Plan, run: RunDirectory, inline_table: bytes
) -> None:
    said = Lines()
    killed = when(lambda: rows_of(run, 1) >= 2, lambda: os.kill(states(run, plan)[1].pid, signal.SIGKILL))
    execute(plan, make_job(waits=(1,)), run, said, cluster)
    killed.join()
    assert collect(run, plan).read_bytes() == inline_table
    assert [state.attempts for state in states(run, plan)] == [1, 2, 1]
    assert any("Fold 1: Resuming after" in line for line in said.said)
    assert any(line.startswith("Fold 1: ") and "continued after process" in line for line in said.said)


@BOTH
def test_a_worker_told_to_end_hands_its_fold_to_another(
    cluster: Any, plan: Plan, run: RunDirectory, inline_table: bytes
) -> None:
    told = when(lambda: rows_of(run, 0) >= 2, lambda: os.kill(states(run, plan)[0].pid, signal.SIGTERM))
    execute(plan, make_job(waits=(0,)), run, executor=cluster)
    told.join()
    assert collect(run, plan).read_bytes() == inline_table
    assert states(run, plan)[0].attempts == 2


@pytest.mark.parametrize(
    ("cluster", "number"),
    [("processes_", signal.SIGINT), ("processes_", signal.SIGTERM), ("rays", signal.SIGINT)],
    indirect=["cluster"],
)
def test_a_signal_stops_all_folds_and_a_resume_finishes_them(
    cluster: Any, plan: Plan, run: RunDirectory, inline_table: bytes, number: signal.Signals
) -> None:
    when(lambda: rows_of(run, 0) == rows_of(run, 1) == 2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(InterruptedRun, match=f"{number.name}.*--resume"):
        execute(plan, make_job(waits=(0, 1)), run, executor=cluster)
    assert [state.state for state in states(run, plan)] == ["pending"] * 3
    assert [state.attempts for state in states(run, plan)] == [1, 1, 0]
    execute(plan, make_job(), run, executor=cluster)
    assert collect(run, plan).read_bytes() == inline_table


def test_a_failed_fold_is_not_tried_again_and_does_not_lose_the_others(
    cluster: Any, plan: Plan, run: RunDirectory
) -> None:
    job = make_job(failures={1: DataError("case x is corrupt"), 2: DataError("case y is corrupt")})
    with pytest.raises(DataError, match=r"2 of 3 folds failed.*Fold 1: case x is corrupt Fold 2: case y"):
        execute(plan, job, run, executor=cluster)
    assert [(state.state, state.attempts) for state in states(run, plan)] == [("done", 1), ("failed", 1), ("failed", 1)]


def test_what_would_fail_every_fold_comes_back_typed_and_stops_the_others(
    cluster: Any, plan: Plan, run: RunDirectory
) -> None:
    job = make_job(pause=1.0, failures={0: UnknownNameError("loss", "dicee", ["dice"])})
    with pytest.raises(UnknownNameError, match="Did you mean 'dice'"):
        execute(plan, job, run, executor=cluster)
    assert [state.state for state in states(run, plan)] == ["failed", "pending", "pending"]


def test_a_process_that_dies_each_time_costs_one_fold(
    cluster: Any, plan: Plan, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "retries", 1)
    # The fold has more rows than there are attempts, and every attempt adds one.
    with pytest.raises(ResourceError, match=r"1 of 3 folds failed.*Fold 2: Its process ended early.*memory"):
        execute(plan, make_job(dies=2), run, executor=cluster)
    assert [(state.state, state.attempts) for state in states(run, plan)] == [("done", 1), ("done", 1), ("failed", 2)]


def test_a_fold_is_started_again_as_often_as_the_documentation_says() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8").split())
    assert RETRIES == 3 and "starts again elsewhere, from its last epoch, up to three times" in text


def test_a_job_that_cannot_travel_is_refused_before_anything_starts(
    cluster: Any, plan: Plan, run: RunDirectory
) -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be copied"):
        execute(plan, lambda fold, folder, resume: lock.acquire(), run, executor=cluster)
    assert not run.folds.exists()


@RAY
def test_a_fold_that_asks_for_more_than_there_is_is_refused(cluster: Any, plan: Plan, run: RunDirectory) -> None:
    config = ExecutionConfig(executor="ray", gpus_per_fold=64)
    with pytest.raises(ConfigError, match=r"64 GPUs.*this machine has"):
        execute(plan, make_job(), run, executor=build_executor(config))


def test_a_silent_address_is_named(plan: Plan, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(ray_cluster, "CONNECT_WITHIN", 2.0)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    executor = build_executor(ExecutionConfig(executor="ray", address="127.0.0.1:1"))
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:1: there was no answer within 2 s"):
        execute(plan, make_job(), run, executor=executor)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'medformer\[cluster\]'"):
        build_executor(ExecutionConfig(executor="ray"))
    assert isinstance(build_executor(ExecutionConfig()), InlineExecutor)


def test_processes_are_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 8)
    counts = {(1.0, 0.0): 8, (3.0, 0.0): 2, (1.0, 0.5): 2, (16.0, 0.0): 1}
    for (cpus, gpus), count in counts.items():
        made = build_executor(ExecutionConfig(executor="processes", cpus_per_fold=cpus, gpus_per_fold=gpus))
        assert isinstance(made, processes.ProcessExecutor) and made.workers == count
    for key, value in {"gpus_per_fold": 2.0, "address": "auto"}.items():
        with pytest.raises(ConfigError, match=f"execution.{key}={value}.*--executor ray".replace("=2.0", "=2")):
            build_executor(ExecutionConfig.model_validate({"executor": "processes", key: value}))


@pytest.mark.parametrize(
    ("executor", "here", "threads"),
    [("inline", False, THREADS), ("processes", False, 2), ("processes", True, THREADS)],
)
def test_a_run_records_the_threads_that_its_folds_compute_with(
    executor: str, here: bool, threads: int, tmp_path: Path
) -> None:
    execution = {"executor": executor, "cpus_per_fold": 1.5}
    config = PolypConfig.model_validate({"execution": execution, "model": {"weights": None}})
    data = SimpleNamespace(path=tmp_path / "data.csv", root=tmp_path, digest=lambda: "0")
    directory, study = RunDirectory.create(tmp_path / "run"), SimpleNamespace(config=config, data=data)
    with runner._recorded(directory, study, SilentReporter(), here=here):  # type: ignore[arg-type]
        pass
    assert directory.record()["sessions"][0]["threads"] == threads
    made = build_executor(config.execution)
    assert not isinstance(made, processes.ProcessExecutor) or made.threads == 2


def test_processes_end_with_what_started_them(plan: Plan, run: RunDirectory, tmp_path: Path) -> None:
    executor = build_executor(ExecutionConfig(executor="processes", workers=1, cpus_per_fold=THREADS))
    driver = os.fork()
    if driver == 0:
        execute(plan, make_job(waits=(0,)), run, executor=executor)
        os._exit(0)
    while rows_of(run, 0) < 2:
        time.sleep(0.01)
    worker = states(run, plan)[0].pid
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    while _runs(worker):
        time.sleep(0.01)
    execute(plan, make_job(), run)
    assert [state.attempts for state in states(run, plan)] == [2, 1, 1]


def _runs(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return False


def test_shares_of_gpus_are_what_ray_can_reserve() -> None:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    for share in (0.5, 2.0):
        build_executor(ExecutionConfig(executor="ray", gpus_per_fold=share))
    with pytest.raises(ConfigError, match=r"gpus_per_fold=1\.5"):
        build_executor(ExecutionConfig(executor="ray", gpus_per_fold=1.5))


def test_a_worker_that_sees_another_folder_says_so(plan: Plan, tmp_path: Path) -> None:
    order = Order(plan.folds[0], plan.digest(), tmp_path / "run/folds/0", tmp_path, "token", 0.0, Threads.here())
    error = run_order(order, b"")
    assert isinstance(error, ResourceError)
    assert "must lie on a file system that all machines share" in str(error)
