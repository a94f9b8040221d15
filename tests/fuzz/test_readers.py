"""A damaged file gives a value or an error that names it: no traceback, no crash, no hang, no memory without end."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from formats import FORMATS

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("child.py")
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers")))
HANG = float(os.environ.get("FUZZ_HANG", "20"))
"""Seconds that one file may take; the first of a process may take more, because it imports."""
START = 300.0


@dataclass
class Findings:
    """What became of the mutants."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def fuzz(folder: Path, formats: list[str], count: int) -> Findings:
    """Read `count` mutants of each format in a child, which is started again behind one that ended it."""
    found = Findings()
    todo = {name: 0 for name in formats}
    while todo:
        arguments = [word for name in todo for word in ("--format", name)]
        first = next(iter(todo.values()))
        command = [sys.executable, str(CHILD), str(folder), str(count), "--first", str(first), *arguments]
        with open(folder / "errors.txt", "ab") as errors:
            environment = {**os.environ, "PYTHONPATH": PATHS}
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1, env=environment
            )
        try:
            reading = _follow(child, todo, found, count)
        finally:
            child.kill()
            child.wait()
        if reading is None or len(found.faults) > 20 * len(formats):
            break
    return found


def _follow(child: subprocess.Popen[str], todo: dict[str, int], found: Findings, count: int) -> str | None:
    """Read what the child says until it ends; returns the mutant that ended it, None when it came to its end."""
    assert child.stdout is not None
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    reading = ""
    while True:
        if not selector.select(HANG if reading else START):
            what = f"{reading or 'the start'}: no end after {HANG:g} s"
        elif line := child.stdout.readline():
            said, _, rest = line.strip().partition(" ")
            if said == "read":
                reading = rest
                name, _, number = rest.rpartition(" ")
                for done in list(todo)[: list(todo).index(name)]:
                    del todo[done]
                todo[name] = int(number) + 1
                continue
            found.read += 1
            found.refused += said == "refused"
            if said == "fault":
                found.faults.append(f"{reading}: {rest}")
            reading = ""
            continue
        elif child.wait() == 0:
            return None
        else:
            what = f"{reading or 'the start'}: the process ended with {child.returncode}"
        found.faults.append(what)
        if not reading:
            pytest.fail(f"{what}; see errors.txt")
        name = reading.rpartition(" ")[0]
        if todo[name] >= count:
            del todo[name]
        return reading


def check(folder: Path, formats: list[str], count: int) -> None:
    found = fuzz(folder, formats, count)
    repeat = f"PYTHONPATH={PATHS} python {CHILD} FOLDER 0 --format NAME --only N --keep"
    faults = [f"{len(found.faults)} faults; to repeat one: {repeat}", *found.faults[:30]]
    assert not found.faults, "\n".join(faults)
    assert found.read == count * len(formats)
    assert 0 < found.refused < found.read, "the damage reaches no reader, or nothing else does"


def test_a_few_mutants_of_every_format(tmp_path: Path) -> None:
    check(tmp_path, [name for name, kind in FORMATS.items() if not kind.slow], 15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORMATS)
def test_two_thousand_mutants_of_a_format(tmp_path: Path, name: str) -> None:
    check(tmp_path, [name], 2000)
