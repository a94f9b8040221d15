"""How many loader processes a training chooses, and that its batches are the same whatever it chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medformer.training.loader import BatchSource
from medformer.training.worker_choice import WorkerChoice

Times = Callable[[int], tuple[float, float]]


def _choose(limit: int, times: Times, batches: int = 2000) -> WorkerChoice:
    choice = WorkerChoice(limit)
    for _ in range(batches):
        choice.seen(*times(choice.workers))
    return choice


def _free_cores(load: float, step: float) -> Times:
    """Loader processes that take nothing from the training."""
    return lambda workers: (max(0.0, load / workers - step) if workers else load, step)


def _shared_cores(load: float, step: float) -> Times:
    """Loader processes that take from the training what they give."""
    return lambda workers: (0.0, load + step + 0.01) if workers else (load, step)


@pytest.mark.parametrize(
    ("limit", "times", "workers", "tried"),
    [
        (15, _free_cores(0.3, 0.1), 3, [0, 3]),
        (2, _free_cores(0.3, 0.1), 2, [0, 2]),
        (15, _shared_cores(0.3, 0.1), 0, [0, 3]),
        (15, _free_cores(0.01, 1.0), 0, [0]),
        # A first guess that is too low is doubled, and what no longer helps is given back.
        (15, lambda workers: (0.2 / min(workers, 2) if workers else 0.4, 0.4), 2, [0, 1, 2, 4]),
    ],
    ids=["keeps-up", "few-cores", "no-free-core", "never-waits", "no-more-gain"],
)
def test_the_fastest_number_is_kept(limit: int, times: Times, workers: int, tried: list[int]) -> None:
    choice = _choose(limit, times)
    assert (choice.decided, choice.workers, list(choice.times)) == (True, workers, tried)


def test_a_short_training_starts_no_processes() -> None:
    choice = _choose(15, _free_cores(0.05, 0.001), batches=40)
    assert choice.workers == 0 and not choice.decided


class _Numbers:
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: tuple[int, int]) -> dict[str, object]:
        return {"image": torch.tensor([float(index[0]), float(index[1])]), "id": str(index)}


class _Scripted(WorkerChoice):
    """One loader process after the second batch, none again after the fourth."""

    def seen(self, waiting: float, training: float) -> bool:
        self._count += 1
        self.workers = int(2 <= self._count < 4)
        self.decided = self._count >= 4
        self.times[self.workers] = 1.0
        return self._count in (2, 4)


def test_batches_are_the_same_whatever_is_chosen(tmp_path: Path) -> None:
    lines: list[str] = []

    def read(scripted: bool) -> list[list[str]]:
        record = tmp_path / "loading.json"
        source = BatchSource(
            _Numbers(), 2, seed=1, workers="auto", pin=False, visits=2, say=lines.append, record=record
        )
        if scripted:
            source.choice = _Scripted(1)
        try:
            return [list(batch["id"]) for epoch in range(2) for batch in source.batches(epoch, 3 * (epoch == 0))]
        finally:
            source.close()

    plain = read(False)
    assert not lines and len(plain) == 9 + 12
    assert read(True) == plain
    assert len(lines) == 1 and "Loader processes: none" in lines[0]
    assert json.loads((tmp_path / "loading.json").read_text())["workers"] == 0
