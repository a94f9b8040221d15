"""One writer per run folder: a lock file that names its owner and survives neither the owner nor a kill."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medformer.errors import ConfigError


def acquire(path: Path) -> None:
    """Create the lock file, replacing one whose owner is dead.

    A process is recognized by host, number and start time, because numbers are reused after a restart.

    Raises:
        ConfigError: Another live process, or any process on another host, holds the lock.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            owner = _read(path)
            if not owner:
                # Either its owner is just writing it, or was killed while doing so.
                time.sleep(0.2)
                owner = _read(path)
            if owner and _alive(owner, mine):
                raise ConfigError(
                    f"{path.parent} is being written by process {owner.get('pid')} on {owner.get('host')} since "
                    f"{owner.get('since')}. Wait for it or choose another folder; if that process is gone, delete "
                    f"{path}."
                ) from None
            with suppress(FileNotFoundError):
                path.unlink()
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({**mine, "since": datetime.now(UTC).isoformat(timespec="seconds")}, file)
        return


def release(path: Path) -> None:
    """Remove the lock file if this process holds it."""
    if _read(path).get("pid") == os.getpid():
        with suppress(OSError):
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """The owner; empty when the file vanished or a kill left it half written."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alive(owner: dict[str, Any], mine: dict[str, Any]) -> bool:
    if owner.get("host") != mine["host"]:
        return True
    pid = owner.get("pid")
    if pid == mine["pid"] or not isinstance(pid, int):
        return False
    if os.name == "nt":
        # Signal 0 would end the process there, so ask the user instead.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return bool(owner.get("started") == _started(pid))


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot, where the system tells; otherwise empty."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has ended although its number is still taken.
    return "" if fields[0] == "Z" else fields[19]
