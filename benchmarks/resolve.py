#!/usr/bin/env python3
"""Which Pythons the package and each of its extras resolve on, from wheels alone; nothing is installed.

    pip install uv
    python benchmarks/resolve.py             # with the newest versions that are allowed
    python benchmarks/resolve.py --lowest    # with the oldest ones that pyproject.toml names

Each cell says how many packages that takes, or that there is no solution, with uv's reason below.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BASE = "(base)"


def main() -> None:
    """Resolve everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.13", "3.14"], help="versions of Python")
    parser.add_argument("--lowest", action="store_true", help="oldest versions of what pyproject.toml names")
    parser.add_argument("--platform", help="as uv names it, such as windows or macos; default: this one")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        raise SystemExit("uv is not installed; install it with: pip install uv")
    options = ["--resolution", "lowest-direct" if arguments.lowest else "highest"]
    options += ["--python-platform", arguments.platform] if arguments.platform else []
    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    reasons = []
    print(f"| | {' | '.join(arguments.python)} |\n|---{'|---' * len(arguments.python)}|")
    for extra in (BASE, *extras):
        cells = []
        for python in arguments.python:
            chosen = ["--python-version", python, *options, *(["--extra", extra] if extra != BASE else [])]
            done = resolve(chosen)
            cells.append(f"{len(done.stdout.splitlines())} packages" if done.returncode == 0 else "no")
            if done.returncode:
                reasons.append(f"{extra} on {python}: {' '.join(done.stderr.split())}")
        print(f"| {extra} | {' | '.join(cells)} |", flush=True)
    print("", *reasons, sep="\n")


def resolve(options: list[str]) -> subprocess.CompletedProcess[str]:
    """Ask uv for versions of everything that is needed."""
    plain = ["--quiet", "--no-annotate", "--no-header", "--only-binary", ":all:"]
    return subprocess.run(["uv", "pip", "compile", str(PROJECT), *plain, *options], capture_output=True, text=True)


if __name__ == "__main__":
    main()
