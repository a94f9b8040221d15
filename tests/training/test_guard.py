from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stopping import StopAfter
from torch import Tensor, nn

from medformer.errors import DivergenceError, InterruptedRun
from medformer.progress import SilentReporter
from medformer.training.guard import MOST, SECONDS, Readings, Step


def _add(readings: Readings, number: int, loss: float = 1.0, norm: float = 1.0) -> None:
    readings.add(Step(number, 0.1, {"id": [str(number)]}), torch.tensor(loss), torch.tensor(norm))


def test_numbers_are_read_together_about_every_half_second() -> None:
    readings = Readings(at_once=False)
    _add(readings, 1)
    assert readings.due, "the first is read at once: a training that starts wrong ends at once"
    assert [reading.step.number for reading in readings.read()] == [1] and not readings
    assert readings.paced(SECONDS / 4) == SECONDS / 4
    for number in (2, 3, 4, 5):
        assert not readings.due
        _add(readings, number, loss=float(number))
    assert readings.due and [reading.loss for reading in readings.read()] == [2.0, 3.0, 4.0, 5.0]
    readings.paced(4 * 10.0)
    _add(readings, 6)
    assert readings.due, "steps that take long are read one by one"
    list(readings.read())
    readings.paced(1e-9)
    for number in range(MOST):
        assert not readings.due
        _add(readings, number)
    assert readings.due


def test_processes_read_their_mean() -> None:
    asked: list[Tensor] = []

    def total(table: Tensor) -> Tensor:
        asked.append(table)
        return table + 1

    readings = Readings(at_once=True, total=total)
    _add(readings, 1, loss=2.0, norm=3.0)
    assert [(reading.loss, reading.norm) for reading in readings.read()] == [(3.0, 4.0)]
    assert list(readings.read()) == [] and len(asked) == 1, "nothing is asked of the others without a number"


@pytest.fixture
def read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does: numbers are read every few steps."""

    def later(**given: Any) -> Readings:
        return Readings(**{**given, "at_once": False})

    monkeypatch.setattr("medformer.training.loop.Readings", later)


@pytest.fixture
def many(tiny: ModuleType) -> Callable[..., Any]:
    """A training of three epochs of six steps."""
    return partial(tiny.train, data=tiny.Squares(24))


def _same(one: Path, two: Path, tiny: ModuleType) -> None:
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert tiny.curve(one) == tiny.curve(two)


def test_when_numbers_are_read_changes_none(
    tiny: ModuleType, many: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    many(tmp_path / "at_once")
    request.getfixturevalue("read_later")
    heard: list[dict[str, float]] = []

    class Listener(SilentReporter):
        def advance(self, n: int = 1, **fields: float) -> None:
            heard.extend([fields] * n)

    many(tmp_path / "later", reporter=Listener())
    _same(tmp_path / "at_once", tmp_path / "later", tiny)
    assert len(heard) == 18 and all({"loss", "lr"} <= set(fields) for fields in heard)
    # A signal that comes between two readings.
    with pytest.raises(InterruptedRun):
        many(tmp_path / "stopped", reporter=StopAfter(8))
    many(tmp_path / "stopped", resume=True)
    _same(tmp_path / "at_once", tmp_path / "stopped", tiny)


class Exploding(nn.Module):
    """A loss that turns infinite at one call, whose gradient does at another, and that sends a signal at a third."""

    name = "exploding"

    def __init__(self, loss: int = 0, gradient: int = 0, signal_at: int = 0) -> None:
        super().__init__()
        self.calls, self.loss, self.gradient, self.signal_at = 0, loss, gradient, signal_at

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.calls == self.gradient:
            # The root of zero: its slope is infinite, and it is 0.
            return (logits - target).square().mean() + (0 * logits.sum()).abs().sqrt()
        return (logits - target).square().mean() * (torch.inf if self.calls == self.loss else 1.0)


@pytest.mark.usefixtures("read_later")
@pytest.mark.parametrize("loss", [Exploding(loss=9), Exploding(gradient=9)])
def test_what_is_not_finite_ends_the_training_and_is_saved_nowhere(
    many: Callable[..., Any], tmp_path: Path, loss: Exploding
) -> None:
    with pytest.raises(DivergenceError, match=r"epoch 2, step 3 of 6.*The weights on disk are those of epoch 1"):
        many(tmp_path, loss=loss, config={"clip": 0.0})
    assert loss.calls > 9, "it was not read at once"
    for name in ("model", "state"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / f"{name}.safetensors").values())


@pytest.mark.usefixtures("read_later")
def test_a_stop_saves_nothing_that_has_not_been_read(many: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="step 3 of 6"):
        many(tmp_path, loss=Exploding(loss=9, signal_at=10))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "state.safetensors").values())
