from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TextIO

import pytest
import torch

SCRIPT = Path(__file__).with_name("tiny_training.py")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module tiny_training.py, whose `__file__` is also a program."""
    spec = importlib.util.spec_from_file_location("medformer_tests_tiny_training", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Started:
    """The program of tiny_training.py in a process that leads a group of its own.

    Args:
        pid: Its number.
        ends: Where how it ended is read.
    """

    def __init__(self, pid: int, ends: TextIO) -> None:
        self.pid = pid
        self._ends = ends
        self._code: int | None = None

    def wait_for(self, path: Path) -> None:
        """Wait until it has written a file."""
        deadline = time.monotonic() + 600
        while not path.exists():
            # A process that has ended is gone, because its parent waits for it.
            os.kill(self.pid, 0)
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> int:
        """Wait for its end; returns the exit code, or minus the signal that ended it."""
        if self._code is None:
            self._code = int(self._ends.readline())
        return self._code

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.end()


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Started]]:
    """Starts tiny_training.py's program in a fork of a process that has everything imported."""
    command, pipe = [sys.executable, str(SCRIPT), "serve"], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        requests, answers = server.stdin, server.stdout

        def begin(*words: object) -> Started:
            print(*words, file=requests, flush=True)
            return Started(int(answers.readline()), answers)

        yield begin
        requests.close()
