from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medformer.crossval.plan import Fold, Plan, PlanCase
from medformer.crossval.plan.schemes import make_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import RunInfo
from medformer.files import write_csv


@pytest.fixture
def cases() -> list[PlanCase]:
    return [
        PlanCase(f"g{group:02d}_{frame}", f"g{group:02d}", f"site{group % 2}", f"hash{group}{frame}")
        for group in range(12)
        for frame in range(1 + group % 3)
    ]


@pytest.fixture
def plan(cases: list[PlanCase]) -> Plan:
    return make_plan(cases, folds=3, validation=0.25, seed=7)


@pytest.fixture
def info() -> RunInfo:
    return RunInfo(
        task="polyp",
        command=["medformer", "polyp", "crossval", "--out", "run"],
        config={"seed": 7, "training": {"epochs": 2, "size": (64, 96)}, "data": {"workers": 0}},
        seed=7,
        device="cpu",
        manifest="data/manifest.csv",
        data_root="data",
        data_sha256="abc",
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture
def job() -> Callable[[Fold, Path, bool], None]:
    def predict(fold: Fold, folder: Path, resume: bool) -> None:
        rows = [{"id": name, "site": "a", "dice": len(name) / (fold.index + 7)} for name in fold.test]
        write_csv(folder / "predictions.csv", rows, ["id", "site", "dice"])

    return predict
