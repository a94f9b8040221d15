from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medformer.errors import ConfigError, InterruptedRun, UnknownNameError
from medformer.progress import SilentReporter
from medformer.training.trackers.build import TRACKERS, build_tracker
from medformer.training.trackers.tracking import Ending, Logged, Tracking, flatten


class Server:
    """A tracker with a memory, which fails when it is told to, before or after it took the numbers."""

    def __init__(self) -> None:
        self.down = False
        self.loses_answers = False
        self.held: list[tuple[int, str, float]] = []
        self.starts = 0
        self.endings: list[Ending] = []

    def start(self, name: str, params: Mapping[str, str]) -> Logged:
        self._answer()
        self.starts += 1
        return {(key, step) for step, key, _ in self.held}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._answer()
        self.held += [(step, key, value) for key, value in values.items()]
        if self.loses_answers:
            raise TimeoutError("no answer")

    def close(self, ending: Ending) -> None:
        self._answer()
        self.endings.append(ending)

    def _answer(self) -> None:
        if self.down:
            raise ConnectionError("http://me:secret@server refused\nmore")


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


ROWS: list[dict[str, Any]] = [{"epoch": n, "loss": 1.0 / n, "dice": 0.1 * n if n > 1 else None} for n in range(1, 6)]
ALL = [(row["epoch"], key, row[key]) for row in ROWS for key in ("loss", "dice") if row[key] is not None]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def listener() -> Listener:
    return Listener()


def _tracking(server: Server, listener: Listener) -> Tracking:
    return Tracking(server, "folds/0", {}, listener)


def test_each_row_is_sent_once(server: Server, listener: Listener) -> None:
    with _tracking(server, listener) as tracking:
        for known in range(6):
            tracking.update(ROWS[:known])
    assert server.held == ALL and server.starts == 1 and listener.lines == []


def test_what_an_absent_server_missed_is_sent_when_it_is_back(server: Server, listener: Listener) -> None:
    with _tracking(server, listener) as tracking:
        for known in range(6):
            server.down = known in (0, 2, 3)
            tracking.update(ROWS[:known])
    assert server.held == ALL
    assert len(listener.lines) == 1
    assert "ConnectionError: http://server refused)" in listener.lines[0] and "secret" not in listener.lines[0]


def test_a_server_that_takes_long_to_fail_is_left_alone_for_a_while(
    server: Server, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tries = [100.0], []
    monkeypatch.setattr("medformer.training.trackers.tracking.time.monotonic", lambda: now[0])

    def slow(name: str, params: Mapping[str, str]) -> Logged:
        tries.append(now[0])
        now[0] += 20
        raise TimeoutError

    start = server.start
    server.start = slow  # type: ignore[method-assign]
    with _tracking(server, listener) as tracking:
        for known in range(1, 6):
            tracking.update(ROWS[:known])
            now[0] += 90
        assert tries == [100.0, 390.0]
        server.start = start  # type: ignore[method-assign]
    assert server.held == ALL, "the end is no time to rest"


def test_an_answer_that_is_lost_repeats_nothing(server: Server, listener: Listener) -> None:
    with _tracking(server, listener) as tracking:
        for known in range(6):
            server.loses_answers = known in (1, 4)
            tracking.update(ROWS[:known])
    assert server.held == ALL and len(listener.lines) == 1


def test_a_second_process_sends_only_what_the_first_did_not(server: Server, listener: Listener) -> None:
    _tracking(server, listener).update(ROWS[:2])
    server.held.pop()
    _tracking(server, listener).update(ROWS[:3])
    assert sorted(server.held) == sorted(entry for entry in ALL if entry[0] <= 3)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, "finished"),
        (InterruptedRun("stop"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("a bug"), "failed"),
    ],
)
def test_the_end_says_what_happened(
    server: Server, listener: Listener, error: BaseException | None, ending: str
) -> None:
    try:
        with _tracking(server, listener):
            if error is not None:
                raise error
    except BaseException as caught:
        assert caught is error
    assert server.endings == [ending]


def test_an_end_that_fails_hides_no_error(server: Server, listener: Listener) -> None:
    server.down = True
    with pytest.raises(ZeroDivisionError), _tracking(server, listener):
        raise ZeroDivisionError
    assert len(listener.lines) == 1


def test_settings_are_flattened() -> None:
    settings = {"training": {"lr": 0.1, "clip": None}, "scales": [1.0], "metadata": {"model": {"name": "a"}}}
    assert flatten(settings) == {
        "training.lr": "0.1",
        "training.clip": "None",
        "scales": "[1.0]",
        "metadata.model.name": "a",
    }


def test_an_unknown_tracker_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'tensorbord'. Did you mean 'tensorboard'"):
        build_tracker("tensorbord", tmp_path, tmp_path)


def test_the_table_has_what_a_config_may_name() -> None:
    from typing import get_args

    from medformer.config.shared import TrainingConfig

    assert set(TRACKERS) == set(get_args(TrainingConfig.model_fields["tracker"].annotation))


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_missing_package_is_refused_before_the_training(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    for known in [known for known in sys.modules if known.split(".")[0] == module or known.endswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, known)
    for known in [known for known in sys.modules if known.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"training.tracker={name} .* pip install 'medformer\[{name}\]'"):
        tiny.train(tmp_path / "out", config={"tracker": name})
    assert not (tmp_path / "out").exists()
