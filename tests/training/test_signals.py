from __future__ import annotations

import os
import signal
import threading

import pytest

from medformer.training.signals import StopNow, stop_on_signals


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_request_and_the_handlers_come_back(number: signal.Signals) -> None:
    former = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="acted"), stop_on_signals() as stop:
        assert not stop
        _send(number)
        assert stop and stop.name == number.name
        raise ValueError("acted on")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == former


def test_a_second_ctrl_c_gives_up_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        _send(signal.SIGTERM)
        _send(signal.SIGTERM)
        assert stop
        _send(signal.SIGINT)


def test_a_request_that_nobody_acted_on_reaches_the_former_handler() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        _send(signal.SIGINT)


def test_work_without_effects_is_stopped_at_once() -> None:
    with pytest.raises(StopNow), stop_on_signals() as stop, stop.at_once():
        _send(signal.SIGINT)
        raise AssertionError("went on")
    with pytest.raises(StopNow), stop_on_signals() as stop:
        _send(signal.SIGINT)
        with stop.at_once():
            raise AssertionError("began after the signal")


def test_other_processes_can_be_told() -> None:
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals(lambda: told.append(1)):
        _send(signal.SIGINT)
    assert told == [1]


def test_another_thread_leaves_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.extend((signal.getsignal(signal.SIGINT), bool(stop)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]
