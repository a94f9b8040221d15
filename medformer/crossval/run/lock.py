"""One writer per run folder: a lock file that names its owner and survives neither the owner nor a kill.

A living owner keeps the file locked in the operating system (flock), which ends with its process. So everybody on the
same machine sees whether it lives, also from another container, where process numbers and host names mean nothing.
From other machines the file's time counts, which the owner renews every half minute: an owner that has given no sign
for five minutes is taken for dead. A machine that sleeps gives none either: wake it only when nobody else has continued
the run.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medformer.errors import ConfigError
from medformer.files import read_json
from medformer.progress import age, duration, now

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

BEAT = 30.0
"""Seconds between two signs of life."""
SILENCE = 300.0
"""Seconds without one after which an owner on another host counts as dead."""

_beats: dict[Path, threading.Event] = {}
_PROCESS = uuid.uuid4().hex
"""Recognizes this process, because numbers are used again, and are the same in every container."""
_held: dict[Path, int] = {}
"""Open files with the system's lock, by path."""


@dataclass(frozen=True)
class Owner:
    """Who writes in a run folder.

    Attributes:
        pid: Process number.
        host: Where.
        user: Whose; empty when not known.
        since: When it began, UTC.
        silent: Seconds since its last sign of life; None when it gives none.
        alive: Whether it still runs, as far as can be seen from here.
    """

    pid: int
    host: str
    user: str
    since: str
    silent: float | None
    alive: bool

    def __str__(self) -> str:
        seconds = age(self.since)
        held = f"since {self.since}" if seconds is None else f"for {duration(seconds)}"
        return f"process {self.pid} on {self.host}{f', {self.user}' if self.user else ''}, {held}"


def acquire(path: Path) -> None:
    """Create the lock file, replacing one whose owner is dead.

    Raises:
        ConfigError: Another live process holds the lock.
    """
    mine = _identity()
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            _make_way(path, mine)
            continue
        # Somebody who looks whether the owner lives holds the lock for a moment.
        locked = _flock(handle, wait=True) and _is_locked(path)
        content = {**mine, "user": _user(), "since": now(), "beat": BEAT, "flock": locked}
        try:
            os.write(handle, json.dumps(content).encode("utf-8"))
        except OSError:
            # The disk is full.
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        try:
            kept = os.path.samestat(os.fstat(handle), path.stat())
        except OSError:
            kept = False
        if not kept:
            # This process was so slow that another took it for dead.
            os.close(handle)
            continue
        if (former := _held.pop(path.absolute(), None)) is not None:
            os.close(former)
        _held[path.absolute()] = handle
        _start_beating(path, mine)
        return


def release(path: Path) -> None:
    """Remove the lock file if this process holds it."""
    if _is(_read(path), _identity()):
        if beat := _beats.pop(path.absolute(), None):
            beat.set()
        with suppress(OSError):
            path.unlink()
        if (handle := _held.pop(path.absolute(), None)) is not None:
            os.close(handle)


def read_owner(path: Path) -> Owner | None:
    """Return who holds the lock, dead or alive; None when nobody does."""
    content = _read(path)
    if not content:
        return None
    silent = None
    if "beat" in content:
        with suppress(OSError):
            silent = max(0.0, time.time() - path.stat().st_mtime)
    return Owner(
        pid=content["pid"] if isinstance(content.get("pid"), int) else 0,
        host=str(content.get("host", "")),
        user=str(content.get("user", "")),
        since=str(content.get("since", "")),
        silent=silent,
        alive=_alive(path, content, silent),
    )


def _make_way(path: Path, mine: dict[str, Any]) -> None:
    """Remove a lock that nobody holds any more.

    Raises:
        ConfigError: Somebody holds it.
    """
    content = _read(path)
    if not content:
        # Either its owner is just writing it, or was killed while doing so.
        time.sleep(0.2)
        content = _read(path)
    owner = read_owner(path)
    if owner and owner.alive and not _is(content, mine):
        seen = f"; last sign of life {duration(owner.silent)} ago" if owner.silent is not None else ""
        elsewhere = content.get("machine") != mine["machine"]
        freed = f" {duration(SILENCE)} after its last sign of life" if owner.silent is not None else f" deleting {path}"
        gone = f"; if that process is gone, the folder becomes free by{freed}" if elsewhere else ""
        raise ConfigError(
            f"{path.parent} is being written by {owner}{seen}. Wait for it or choose another folder{gone}."
        )
    # Renaming has one winner, who may find that it renamed a lock taken anew after it looked.
    aside = path.with_name(f".lock.{uuid.uuid4().hex[:8]}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside) != content:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _start_beating(path: Path, mine: dict[str, Any]) -> None:
    path, stopped = path.absolute(), threading.Event()
    if former := _beats.pop(path, None):
        former.set()
    _beats[path] = stopped

    def beat() -> None:
        while not stopped.wait(BEAT):
            content = _read(path)
            if content and not _is(content, mine):
                return
            with suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, name="run-folder-lock", daemon=True).start()


def _identity() -> dict[str, Any]:
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "process": _PROCESS}


def _machine() -> str:
    """What the containers of one machine have in common until it starts again; its name where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return socket.gethostname()


def _flock(handle: int, *, wait: bool) -> bool:
    """Lock an open file in the operating system: alone with `wait`, else together with others who only look.

    Returns:
        Whether it could be had; False also where the system or the file system has no such locks.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    """Whether a process holds the system's lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(handle, wait=False)
    finally:
        os.close(handle)


def _leave_to_parent() -> None:
    """A forked process, such as a loader's, must not keep the lock when its parent has ended."""
    for handle in _held.values():
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _is(content: dict[str, Any], mine: dict[str, Any]) -> bool:
    return all(content.get(key) == value for key, value in mine.items())


def _read(path: Path) -> dict[str, Any]:
    """What the file says; empty when it vanished or a kill left it half written."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alive(path: Path, owner: dict[str, Any], silent: float | None) -> bool:
    """Whether the owner still runs, as far as can be seen from here."""
    if owner.get("flock") and owner.get("machine") == _machine():
        return _is_locked(path)
    return silent is None or silent < SILENCE


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A container may run as a number without a name.
        return str(os.getuid()) if hasattr(os, "getuid") else ""
