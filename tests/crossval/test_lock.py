"""One writer per run folder, whoever else tries, dies or is far away."""

from __future__ import annotations

import getpass
import json
import os
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
        write_json(path, {**content, "since": (datetime.now(UTC) - timedelta(minutes=3)).isoformat()})
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
