"""Loader processes that cannot go on: the training says why and ends, or loads by itself; it never waits for ever."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from medformer.errors import ResourceError
from medformer.training.loader import BatchSource

NO_ROOM = "unable to allocate shared memory(shm) for file </torch_7_1_2>: No space left on device (28)"
WATCHDOG = 120


class Faulty:
    """Items that a loader process fails at, from the third on; this process does not."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        if get_worker_info() is not None and index[1] > 2:
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.fault == "memory":
                raise MemoryError
            elif self.fault == "full":
                raise RuntimeError(NO_ROOM)
        return {"image": torch.tensor([float(index[1])]), "id": f"case{index[1]}"}


class Unsendable(Faulty):
    """Batches that cannot be sent to another process."""

    def batch(self, indices: Any) -> dict[str, Any]:
        return {"image": torch.zeros(len(indices)), "id": (name for name in ("a", "b"))}


def read(data: Any, workers: int, lines: list[str] | None = None) -> list[list[str]]:
    source = BatchSource(data, 2, seed=1, workers=workers, pin=False, say=(lines or []).append)
    try:
        return [list(batch["id"]) for epoch in range(2) for batch in source.batches(epoch, 0)]
    finally:
        source.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Faulty("killed"), r"loader process ended early|killed by signal"),
        (Faulty("memory"), "Out of memory"),
        (Unsendable(""), "loader process ended early"),
    ],
    ids=["killed", "memory", "unsendable"],
)
def test_a_loader_process_that_fails_is_a_lack_with_advice(data: Any, words: str) -> None:
    with pytest.raises(ResourceError, match=words) as caught:
        read(data, 2)
    assert "Caught" not in str(caught.value)


def test_full_shared_memory_is_said_and_the_batches_stay_the_same() -> None:
    lines: list[str] = [""]
    assert read(Faulty("full"), 2, lines) == read(Faulty(""), 0)
    assert len(lines) == 2 and "/dev/shm" in lines[1] and "data.workers=0" in lines[1] and "--shm-size" in lines[1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "2 loader processes could not be started"),
        (RuntimeError("can't start new thread"), "2 loader processes could not be started"),
    ],
)
def test_loader_processes_that_cannot_be_started_are_a_lack(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(loader: DataLoader[Any]) -> None:
        raise error

    monkeypatch.setattr(DataLoader, "__iter__", fail)
    with pytest.raises(ResourceError, match=words):
        read(Faulty(""), 2)


def test_queues_without_room_leave_the_loading_to_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = DataLoader.__iter__

    def full(loader: DataLoader[Any]) -> Any:
        if loader.num_workers:
            raise OSError(errno.ENOSPC, "No space left on device")
        return begin(loader)

    monkeypatch.setattr(DataLoader, "__iter__", full)
    lines: list[str] = [""]
    assert read(Faulty(""), 2, lines) == read(Faulty(""), 0) and "/dev/shm" in lines[1]


def test_a_program_whose_loader_process_was_killed_ends(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_loader import Faulty, read\n"
        "read(Faulty('killed'), 2)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG)
    assert "ResourceError" in ended.stderr


_SMALL = "mount -t tmpfs -o size=1m tmpfs /dev/shm"


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "sh", "-c", _SMALL], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="needs root, to make /dev/shm small")
def test_a_training_with_a_small_shm_ends_as_one_without_loader_processes(tmp_path: Path, tiny: ModuleType) -> None:
    program = [sys.executable, str(tiny.__file__), str(tmp_path / "small"), "large"]
    command = f'{_SMALL} && exec "$@"'
    small = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", *program, "2"], capture_output=True, text=True, timeout=WATCHDOG
    )
    assert small.returncode == 0, small.stderr
    assert "/dev/shm" in small.stdout
    tiny.train(tmp_path / "alone", data=tiny.Squares(16, side=160), config={"epochs": 2, "batch_size": 8})
    assert tiny.curve(tmp_path / "small") == tiny.curve(tmp_path / "alone")
