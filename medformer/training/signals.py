"""Stopping on Ctrl-C and SIGTERM without losing work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopNow(BaseException):
    """Raised by the handler inside `StopRequest.at_once`; not an `Exception`, so that no one swallows it."""


class StopRequest:
    """Whether a signal asked the run to stop.

    Attributes:
        name: The signal's name, such as "SIGTERM"; empty before the first one.
    """

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.name = ""
        self._at_once = False
        self._then = then

    def __bool__(self) -> bool:
        return bool(self.name)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `StopNow` from within the block when a signal comes: for long work that changes nothing.

        Raises:
            StopNow: A signal came, inside the block or before it.
        """
        self._at_once = True
        try:
            if self.name:
                raise StopNow(self.name)
            yield
        finally:
            self._at_once = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note it, or give up at once when Ctrl-C is pressed again."""
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._then is not None:
            self._then()
        if self._at_once:
            self._at_once = False
            raise StopNow(self.name)


@contextmanager
def stop_on_signals(then: Callable[[], None] | None = None) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the block can look at; the former handlers come back after it.

    A request that came too late for the block to act on is handed to the former handlers, never lost. Only the main
    thread may handle signals; in any other one the request just never comes.

    Args:
        then: Called on each signal, to tell other processes.
    """
    request = StopRequest(then)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {number: signal.signal(number, request.receive) for number in SIGNALS}
    acted = True
    try:
        yield request
        acted = False
    finally:
        for number, handler in former.items():
            # None: a handler that was not installed from Python and cannot be put back.
            if handler is not None:
                signal.signal(number, handler)
        if request and not acted:
            os.kill(os.getpid(), signal.Signals[request.name])
