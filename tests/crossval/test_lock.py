"""One writer per run folder, whoever else tries, dies or is far away."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medformer.crossval.run import lock
from medformer.errors import ConfigError
from medformer.files import write_json

HOLD = (
    "import sys; from pathlib import Path; from medformer.crossval.run import lock\n"
    "try:\n lock.acquire(Path(sys.argv[1]))\n"
    "except lock.ConfigError as error: sys.exit(str(error))\n"
    "print('held', flush=True); sys.stdin.read(); lock.release(Path(sys.argv[1]))"
)


def hold(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its input is closed, or ends with a message."""
    command = [sys.executable, "-c", HOLD, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def write_lock(path: Path, *, silent: float, **changes: Any) -> None:
    """A lock of a process on another host that began an hour ago."""
    since = datetime.now(UTC) - timedelta(hours=1)
    content = {"host": "elsewhere", "pid": 7, "started": "1", "user": "ann", "since": since.isoformat(), "beat": 30}
    write_json(path, {**content, **changes})
    then = time.time() - silent
    os.utime(path, (then, then))


def test_the_refusal_names_process_host_user_and_age(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold(path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        content = json.loads(path.read_text())
        then = (datetime.now(UTC) - timedelta(minutes=3)).isoformat()
        # In place: the owner holds this very file.
        path.write_text(json.dumps({**content, "since": then}))
        expected = rf"by process {other.pid} on {content['host']}, {getpass.getuser()}, for 3 min.*last sign of life"
        with pytest.raises(ConfigError, match=expected):
            lock.acquire(path)
        owner = lock.read_owner(path)
        assert owner is not None and owner.alive and owner.pid == other.pid
        other.kill()
        other.wait()
        owner = lock.read_owner(path)
        assert owner is not None and not owner.alive
    lock.acquire(path)
    lock.release(path)
    assert lock.read_owner(path) is None


def test_of_many_who_find_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for _ in range(3):
        with hold(path) as dead:
            assert dead.stdout is not None and dead.stdout.readline() == "held\n"
            dead.kill()
        others = [hold(path) for _ in range(4)]
        while sum(other.poll() is not None for other in others) < 3:
            time.sleep(0.01)
        ends = [other.communicate() for other in others]
        assert sorted(out for out, _ in ends) == ["", "", "", "held\n"]
        assert sorted(other.returncode for other in others) == [0, 1, 1, 1]
        assert [entry.name for entry in tmp_path.iterdir()] == []


def test_a_process_with_our_number_and_host_in_another_container_is_another(tmp_path: Path) -> None:
    """Two containers of one machine: the same host name, process number 1 in each, and no view of the other."""
    path = tmp_path / ".lock"
    container = f"import os, socket; os.getpid = lambda: 1; socket.gethostname = lambda: 'box'\n{HOLD}"

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", container, str(path)]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    with start() as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        os.utime(path, (0, 0))
        refused = start()
        assert "being written by process 1 on box" in refused.communicate()[1] and refused.returncode == 1
        first.kill()
        first.wait()
    with start() as second:
        assert second.stdout is not None and second.stdout.readline() == "held\n"
        second.communicate("")
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    forking = f"import os, time\n{HOLD}".replace("print(", "os.fork() or time.sleep(30) or os._exit(0); print(", 1)
    command = [sys.executable, "-c", forking, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "held\n"
        assert (owner := lock.read_owner(path)) is not None and owner.alive
        os.kill(parent.pid, signal.SIGKILL)
        os.waitpid(parent.pid, 0)
        parent.returncode = -9
        # The child is still there, and closes the file as soon as it gets to run.
        until = time.monotonic() + 20
        while (owner := lock.read_owner(path)) and owner.alive and time.monotonic() < until:
            time.sleep(0.05)
        assert owner is not None and not owner.alive


def test_a_lock_that_a_full_disk_cut_off_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "write", full)
        lock.acquire(tmp_path / ".lock")
    assert list(tmp_path.iterdir()) == []


def test_without_locks_of_the_system_the_signs_of_life_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    path = tmp_path / ".lock"
    lock.acquire(path)
    assert json.loads(path.read_text())["flock"] is False
    monkeypatch.setattr(lock, "_PROCESS", "another")
    with pytest.raises(ConfigError, match="being written"):
        lock.acquire(path)
    long_ago = time.time() - lock.SILENCE - 5
    os.utime(path, (long_ago, long_ago))
    lock.acquire(path)
    lock.release(path)


@pytest.mark.parametrize(("silent", "free"), [(20.0, False), (lock.SILENCE + 5, True)])
def test_an_owner_on_another_host_is_judged_by_its_signs_of_life(tmp_path: Path, silent: float, free: bool) -> None:
    path = tmp_path / ".lock"
    write_lock(path, silent=silent)
    owner = lock.read_owner(path)
    assert owner is not None and owner.alive is not free
    if free:
        lock.acquire(path)
        assert json.loads(path.read_text())["pid"] == os.getpid()
        lock.release(path)
    else:
        with pytest.raises(ConfigError, match=r"process 7 on elsewhere, ann, for 1 h.* 20 s ago.*free by 5 min after"):
            lock.acquire(path)


def test_the_owner_gives_signs_of_life_until_it_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    path = tmp_path / ".lock"
    lock.acquire(path)
    os.utime(path, (0, 0))
    until = time.monotonic() + 600
    while path.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 60
    lock.release(path)
    write_lock(path, silent=100)
    time.sleep(0.1)
    owner = lock.read_owner(path)
    assert owner is not None and owner.silent is not None and owner.silent > 90
    lock.release(path)
    assert path.exists()
