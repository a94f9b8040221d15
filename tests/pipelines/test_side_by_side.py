"""The same polyp cross-validation inline and on two workers, one of which is killed in the middle of a fold."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import pytest
import torch

from medformer.config import PolypConfig
from medformer.config.shared import ExecutionConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import Fold, Plan, PlanCase
from medformer.crossval.run.collect import collect
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import Executor, LearnerJob, execute
from medformer.crossval.run.executors import build_executor
from medformer.crossval.run.journal import read_state
from medformer.data.manifest import read_manifest
from medformer.files import read_csv
from medformer.progress import SilentReporter
from medformer.tasks.polyp.learner import FrameLearner
from medformer.tasks.polyp.study import PolypStudy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

# Slow enough for a worker to be killed within its training.
NETWORK = "model.name=smp:linknet/tu-mobilenetv3_small_050"
RESULTS = ("oof.csv", "masks/*", "folds/*/model.safetensors", "folds/*/threshold.json", "folds/*/predictions.csv")
EPOCHS = 4


class Lines(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


class Polyp:
    """A two-fold polyp cross-validation that writes to a folder of its own each time."""

    def __init__(self, manifest: Path, config: PolypConfig) -> None:
        self.manifest = read_manifest(manifest)
        self.config = config
        cases = self.manifest.cases
        groups = sorted({case.group for case in cases})
        parts = {
            "a": {case.id for case in cases if case.group in groups[0::3]},
            "b": {case.id for case in cases if case.group in groups[1::3]},
            "c": {case.id for case in cases if case.group in groups[2::3]},
        }
        folds = [
            Fold(index, *(tuple(sorted(parts[name])) for name in names)) for index, names in enumerate(("abc", "cab"))
        ]
        self.plan = Plan("by hand", 0, tuple(PlanCase(case.id, case.group) for case in cases), tuple(folds))

    def run(self, out: Path, executor: Executor | None = None) -> tuple[dict[str, bytes], list[str]]:
        """Return the files of results by name, and what was said."""
        run, reporter = RunDirectory.create(out), Lines()
        study = PolypStudy(config=self.config, data=self.manifest)
        job = LearnerJob(FrameLearner(study, run.cache, {}), run, self.config.seed, reporter)
        execute(self.plan, job, run, reporter, executor)
        collect(run, self.plan)
        files = sorted(file for pattern in RESULTS for file in out.glob(pattern))
        return {str(file.relative_to(out)): file.read_bytes() for file in files}, reporter.said


@pytest.fixture(scope="module")
def polyp(data: Path, settings: tuple[str, ...]) -> Polyp:
    config = load_config(settings[1], [*settings[2:], NETWORK, f"training.epochs={EPOCHS}"])
    assert isinstance(config, PolypConfig)
    return Polyp(data, config)


@pytest.mark.parametrize("executor", ["processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_two_workers_one_of_which_is_killed_give_the_files_of_an_inline_run(
    polyp: Polyp, executor: Literal["processes", "ray"], tmp_path: Path
) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inline, _ = polyp.run(tmp_path / "inline")
        with build_executor(ExecutionConfig(executor=executor, workers=2)) as cluster:
            killed = kill_worker_of_fold(1, tmp_path / "spread", polyp.plan)
            spread, said = polyp.run(tmp_path / "spread", cluster)
        killed.join()
    finally:
        torch.set_num_threads(before)
    assert inline["oof.csv"] == spread["oof.csv"]
    assert inline == spread
    assert len(inline) == 1 + 2 * 3 + len({name for fold in polyp.plan.folds for name in fold.test})
    assert sum(f": Epoch {EPOCHS}: " in line for line in said) == 2
    assert any(line.startswith("Fold 1: Resuming after epoch") for line in said)
    assert [read_state(tmp_path / f"spread/folds/{k}", k, polyp.plan.digest()).attempts for k in (0, 1)] == [1, 2]


def kill_worker_of_fold(index: int, run: Path, plan: Plan) -> threading.Thread:
    """Send SIGKILL to the process that trains a fold, once two epochs are on disk."""
    folder = run / "folds" / str(index)

    def kill() -> None:
        while not (folder / "history.csv").exists() or len(read_csv(folder / "history.csv")) < 2:
            time.sleep(0.002)
        os.kill(read_state(folder, index, plan.digest()).pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread
