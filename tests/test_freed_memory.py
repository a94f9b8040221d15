"""Freed memory stays with a program, so that large maps are not cleared by the system again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medformer import freed_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have other ways")

_PROGRAM = """
import os, resource, subprocess, sys
{first}
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(2**24, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
_KEEPS = "from medformer.freed_memory import keep_freed_memory; assert keep_freed_memory()"


def _faults(first: str, **environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(first=first)],
        env={**clean, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(found.stdout)


def test_blocks_of_64_megabytes_are_used_again() -> None:
    # A page has 4 kB at least, or 2 MB where the system gives large ones.
    assert _faults("") >= 5 * 2**26 // 2**21
    assert _faults(_KEEPS) < 5


def test_processes_that_are_started_keep_theirs_too() -> None:
    inner = _PROGRAM.format(first="")
    assert _faults(f"{_KEEPS}; sys.exit(subprocess.run([sys.executable, '-c', {inner!r}]).returncode)") < 5


@pytest.mark.parametrize("own", [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}])
def test_what_the_user_has_set_stays(own: dict[str, str]) -> None:
    assert _faults(_KEEPS.replace("assert", "assert not"), **own) >= 5 * 2**26 // 2**21


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    assert not freed_memory.keep_freed_memory()
