"""Turns of two trainings in one process, so that whatever else the machine does slows both alike."""

from __future__ import annotations

import os
import signal
import threading


class Turn:
    """Asks the training inside to save and stop after some minutes, as a batch system would: with SIGTERM."""

    def __init__(self, minutes: float) -> None:
        self.over = False
        self._timer = threading.Timer(60 * minutes, self._stop)

    def __enter__(self) -> Turn:
        # `fit` listens while it trains; a signal that comes just before or after must not end the benchmark.
        self._before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        self._timer.join()
        signal.signal(signal.SIGTERM, self._before)

    def _stop(self) -> None:
        self.over = True
        os.kill(os.getpid(), signal.SIGTERM)
