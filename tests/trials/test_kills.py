"""Every long command, killed five times at random moments and repeated, leaves what an uninterrupted one leaves."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the sessions are forked"),
]

KILLS = 5
COMMANDS = [f"{task} {verb}" for verb in ("crossval", "predict", "prepare") for task in ("polyp", "abide", "volume")]


@pytest.mark.parametrize("seed", [0])
def test_five_kills_of_each_command_leave_identical_tables(tmp_path: Path, seed: int) -> None:
    # A process that has started no thread yet can be forked safely, which pytest's own cannot.
    result = subprocess.run([sys.executable, __file__, str(tmp_path), str(seed)], capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in COMMANDS:
        assert f"{name}: {KILLS} kills" in result.stdout


def trial(name: str, folder: Path, seed: int) -> str:
    """Kill and repeat one command; return what was done, or raise AssertionError."""
    from trial import Session

    from medformer.crossval.run.outputs import LIST

    command = COMMANDS_BY_NAME[name]
    draw = random.Random(f"{name} {seed}")
    whole, broken = folder / "whole", folder / "broken"
    for place in (whole, broken):
        place.mkdir(parents=True)
    session = Session(command.arguments(whole), folder / "whole.log")
    work = 0.0
    while session.poll() is None:
        work = max(work, session.worked())
    session.end(0)
    expected = command.found(whole)
    assert expected, f"{name} left nothing to compare"
    kills = attempts = 0
    while kills < KILLS:
        attempts += 1
        assert attempts <= 20 * KILLS, f"only {kills} kills of {name} came before its end"
        # Twice the mean distance: the moments spread over the whole work.
        moment = draw.uniform(0.0, 2.0 * work / (KILLS - kills + 1))
        session = Session(command.arguments(broken), folder / "broken.log")
        while session.poll() is None and session.worked() < moment:
            pass
        session.kill()
        if session.end(-9, 0):
            kills += 1
        else:
            # It ended before the signal came.
            shutil.rmtree(broken)
            broken.mkdir()
    Session(command.arguments(broken), folder / "broken.log").end(0)
    found = command.found(broken)
    different = sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
    assert not different, f"{name}: different after {KILLS} kills: {different}"
    left = [str(file) for file in broken.rglob(".*") if file.is_file() and file.name != LIST]
    assert not left, f"{name}: left behind: {left}"
    return f"{name}: {kills} kills in {attempts} sessions of {work:.1f} s of work; {len(expected)} files are identical"


if __name__ == "__main__":
    from trial import commands, import_everything

    place = Path(sys.argv[1])
    import_everything()
    COMMANDS_BY_NAME = commands(place)
    failed = 0
    for wanted in sys.argv[3:] or COMMANDS:
        try:
            print(trial(wanted, place / "trials" / wanted.replace(" ", "-"), int(sys.argv[2])), flush=True)
        except AssertionError as error:
            failed += 1
            print(f"{wanted}: FAILED. {error}", flush=True)
    raise SystemExit(failed)
