"""A state that is written now and then, and weights that wait for it."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from medformer.errors import DivergenceError, InterruptedRun
from medformer.progress import SilentReporter
from medformer.tensor_file import read_tensors
from medformer.training.saving import Saving, read_metadata

# The clock of these tests moves a second when it is read: two reads per epoch and one per step, so 4 s per epoch.
EPOCHS = 8
CONFIG: dict[str, Any] = {"epochs": EPOCHS, "save_minutes": 10 / 60, "ema": 0.5}


class Answers:
    measure = "dice"

    def __init__(self, *values: float) -> None:
        self.values = iter(values)

    def __call__(self, model: nn.Module) -> float:
        return next(self.values)


class Breaks(SilentReporter):
    """Raises at a line, as a crash would, or asks the training to stop there."""

    def __init__(self, line: str, stop: Any = None) -> None:
        self._line, self._stop = line, stop

    def line(self, text: str) -> None:
        if text.startswith(self._line):
            if self._stop is None:
                raise ZeroDivisionError("a crash")
            self._stop()


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("medformer.training.optimizer.monotonic", lambda: float(next(seconds)))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The epochs whose state was written, and what was."""
    seen: list[tuple[int, str]] = []
    write, weights = Saving.write, Saving.write_weights

    def watched(self: Saving, progress: Any) -> None:
        seen.append((progress.epoch, "state"))
        write(self, progress)

    def watched_weights(self: Saving) -> None:
        if self._best is not None:
            seen.append((self._about["epoch"], "weights"))
        weights(self)

    monkeypatch.setattr(Saving, "write", watched)
    monkeypatch.setattr(Saving, "write_weights", watched_weights)
    return seen


def scores() -> Answers:
    return Answers(0.1, 0.5, 0.2, 0.3, 0.6, 0.4, 0.7, 0.1)


def test_the_state_is_written_now_and_then_and_the_best_weights_with_it(
    tiny: ModuleType, tmp_path: Path, written: list[tuple[int, str]]
) -> None:
    tiny.train(tmp_path, config=CONFIG, validate=scores())
    states = [epoch for epoch, what in written if what == "state"]
    assert states == [3, 6, 8]
    # The weights of epoch 2 follow the state of epoch 3 in this list, because that write begins first.
    assert [entry for entry in written if entry[1] == "weights"] == [(2, "weights"), (5, "weights"), (7, "weights")]
    assert read_metadata(tmp_path / "model.safetensors")["epoch"] == 7


def test_saving_less_often_changes_nothing_else(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path / "often", config={**CONFIG, "save_minutes": 0.0}, validate=scores())
    tiny.train(tmp_path / "seldom", config=CONFIG, validate=scores())
    assert tiny.curve(tmp_path / "often") == tiny.curve(tmp_path / "seldom")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("often", "seldom")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("epoch", [1, 2, 4, 5, 7])
def test_a_crash_between_two_writes_ends_the_same(tiny: ModuleType, tmp_path: Path, epoch: int) -> None:
    tiny.train(tmp_path / "whole", config=CONFIG)
    with pytest.raises(ZeroDivisionError):
        tiny.train(tmp_path / "broken", config=CONFIG, reporter=Breaks(f"Epoch {epoch}:"))
    at, best = 0, 0
    if (tmp_path / "broken/state.safetensors").exists():
        progress = read_metadata(tmp_path / "broken/state.safetensors")["progress"]
        at, best = progress["epoch"], read_metadata(tmp_path / "broken/model.safetensors")["epoch"]
        assert best == progress["best_epoch"]
    assert at == max(0, epoch - epoch % 3) and best <= at
    tiny.train(tmp_path / "broken", config=CONFIG, resume=True)
    assert tiny.curve(tmp_path / "whole") == tiny.curve(tmp_path / "broken")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_a_signal_between_two_writes_saves(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path / "whole", config=CONFIG)
    stop = Breaks("Epoch 4:", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedRun, match="after epoch 4"):
        tiny.train(tmp_path / "broken", config=CONFIG, reporter=stop)
    assert read_metadata(tmp_path / "broken/state.safetensors")["progress"]["epoch"] == 4
    tiny.train(tmp_path / "broken", config={**CONFIG, "save_minutes": 0.0}, resume=True)
    assert tiny.curve(tmp_path / "whole") == tiny.curve(tmp_path / "broken")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


def test_a_training_that_diverges_leaves_the_weights_that_waited(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="Validation after epoch 3 gave nan"):
        tiny.train(tmp_path, config={**CONFIG, "save_minutes": 60.0}, validate=Answers(0.1, 0.5, float("nan")))
    assert read_metadata(tmp_path / "model.safetensors")["epoch"] == 2


def test_a_finished_state_holds_no_tensors_and_is_enough(tiny: ModuleType, tmp_path: Path) -> None:
    first = tiny.train(tmp_path, config=CONFIG)
    tensors, metadata = read_tensors(tmp_path / "state.safetensors")
    assert tensors == {} and metadata["progress"]["finished"] == "epochs"
    model = tiny.TinyNet()
    assert tiny.train(tmp_path, config=CONFIG, resume=True, model=model) == first
    saved, _ = read_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
