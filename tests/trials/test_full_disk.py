"""Every long command that meets a full disk says so, ends with code 5, and goes on once there is room."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHARES = (0.3, 0.6, 0.9)
COMMANDS = [f"{task} {verb}" for verb in ("crossval", "predict", "prepare") for task in ("polyp", "abide", "volume")]
# Mounts are seen by the program alone, and end with it.
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = (*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not _can_mount(), reason="this user may not mount a small disk"),
]


def test_each_command_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    program = (*OWN_MOUNTS, sys.executable, __file__, str(tmp_path))
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in COMMANDS:
        assert f"{name}: " in result.stdout


def trial(name: str, folder: Path) -> str:
    """Run one command on disks that are too small, then with room; return what was done, or raise AssertionError."""
    from trial import Session

    command = COMMANDS_BY_NAME[name]
    whole, disk = folder / "whole", folder / "disk"
    whole.mkdir(parents=True)
    disk.mkdir()
    Session(command.arguments(whole), folder / "whole.log").end(0)
    expected = command.found(whole)
    needed = sum(-(-file.stat().st_size // 4096) * 4096 for file in whole.rglob("*") if file.is_file())
    messages = []
    for share in SHARES:
        _mount(f"size={max(4096, int(share * needed))}", disk)
        session = Session(command.arguments(disk), folder / "disk.log")
        # The largest disk may do: what only accompanies the work needs room too, or not.
        if session.end(0, 5) == 5:
            messages.append(next(line for line in session.text().splitlines() if line.startswith("error: ")))
            assert "No space left" in messages[-1] or "disk is full" in messages[-1], messages[-1]
            _mount("remount,size=1g", disk)
            Session(command.arguments(disk), folder / "disk.log").end(0)
        found = command.found(disk)
        different = sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
        assert not different, f"{name}: different after a full disk: {different}"
        subprocess.run(["umount", disk], check=True)
    assert messages, f"{name}: no disk was small enough"
    return f"{name}: {len(messages)} full disks, {len(expected)} files are identical. {messages[0]}"


def _mount(options: str, disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)


if __name__ == "__main__":
    from trial import commands, import_everything

    place = Path(sys.argv[1])
    import_everything()
    COMMANDS_BY_NAME = commands(place)
    failed = 0
    for wanted in sys.argv[2:] or COMMANDS:
        try:
            print(trial(wanted, place / "disks" / wanted.replace(" ", "-")), flush=True)
        except AssertionError as error:
            failed += 1
            print(f"{wanted}: FAILED. {error}", flush=True)
    raise SystemExit(failed)
