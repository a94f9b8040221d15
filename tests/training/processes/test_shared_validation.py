from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from judges import CASES, Frames, Sum, judge_together, judges
from torch import nn

from medformer.data.network_inputs import loaded_ahead
from medformer.errors import DataError
from medformer.inference.frames.segment import ValidationDice
from medformer.training.processes.validation import can_share, share_score
from medformer.training.signals import StopNow


class Group:
    """Processes of a group one after another: what each gathers is known once all were asked, the second time."""

    def __init__(self, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rank, self.processes = 0, processes
        self.given: list[Any] = [None] * processes
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: self.rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
        monkeypatch.setattr(torch.distributed, "all_gather_object", self.gather)

    def gather(self, target: list[Any], own: Any) -> None:
        self.given[self.rank] = own
        target[:] = [[] if part is None and rank > self.rank else part for rank, part in enumerate(self.given)]

    def ask(self, validate: Any, model: nn.Module, stopped: int = -1) -> list[float | None]:
        def ready() -> AbstractContextManager[Any]:
            if self.rank == stopped:
                raise StopNow("SIGTERM")
            return nullcontext()

        found: list[float | None] = []
        for rank in [*range(self.processes)] * 2:
            self.rank = rank
            try:
                found.append(share_score(validate, model, ready))
            except IndexError:
                # Not all were asked yet.
                found.append(None)
        return found[self.processes :]


@pytest.mark.parametrize("name", list(judges()))
@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_processes_come_to_the_score_of_one(name: str, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    validate, model = judges()[name]
    with torch.no_grad():
        alone = validate(model)
        assert alone > 0 and Group(processes, monkeypatch).ask(validate, model) == [alone] * processes


def test_each_part_is_looked_at_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(Frames):
        def __getitem__(self, index: int) -> dict[str, Any]:
            seen.append(index)
            return super().__getitem__(index)

    group = Group(2, monkeypatch)
    for group.rank, expected in ((0, [0, 1, 4, 5]), (1, [2, 3, 6])):
        seen.clear()
        with pytest.raises(IndexError) if not group.rank else nullcontext():
            share_score(ValidationDice(Watched(), 2), Sum(1), nullcontext)  # type: ignore[arg-type]
        assert seen == expected


def test_a_signal_to_one_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    validate, model = judges()["frames"]
    assert Group(3, monkeypatch).ask(validate, model, stopped=1)[1:] == [None, None]


def test_processes_with_other_weights_do_not_share() -> None:
    class Own(nn.BatchNorm2d):
        """Sees the batch of its own process alone."""

    validate, model = judges()["frames"]
    assert can_share(validate, model) and not can_share(validate, nn.Sequential(model, Own(1)))
    assert not can_share(lambda model: 0.5, model)


@pytest.mark.slow
def test_two_real_processes_come_to_the_score_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(judge_together, args=(str(tmp_path / "meeting"),), nprocs=2)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_that_load_ahead_change_nothing(workers: int) -> None:
    validate, model = judges()["frames"]
    assert isinstance(validate, ValidationDice)
    with torch.no_grad():
        assert ValidationDice(validate.data, 2, workers)(model) == validate(model)


def test_what_is_loaded_ahead_comes_in_order_and_fails_in_its_turn() -> None:
    loaded: list[int] = []

    def load(number: int) -> int:
        loaded.append(number)
        if number == 4:
            raise DataError("frame 4 is truncated")
        return number

    for threads in (0, 2):
        loaded.clear()
        given = loaded_ahead(load, range(CASES), threads)
        assert [next(given) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(DataError, match="frame 4"):
            next(given)
    loaded.clear()
    given = loaded_ahead(load, range(4), 1)
    next(given)
    given.close()  # type: ignore[attr-defined]
    assert 3 not in loaded, "nobody waits for the rest"
