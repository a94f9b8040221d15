"""The process that reads damaged files: it says which mutant it is about to read, and what came of it.

    python tests/fuzz/child.py FOLDER COUNT [--first N] [--format NAME]... [--only N --keep]

Lines: `read FORMAT N` before a file is read, `value`, `refused` or `fault TEXT` after it. `--only N` repeats one mutant
with its whole traceback; `--keep` leaves the file in FOLDER.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import traceback
import warnings
from pathlib import Path

from formats import FORMATS
from mutate import mutate

from medformer.errors import MedformerError

MEMORY = 2 * 2**30
"""Bytes that reading may take beyond what the process has with everything imported."""


def limit_memory(more: int | None) -> None:
    """Let the process take so many bytes more than it has; None for no limit."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = resource.RLIM_INFINITY if more is None else has + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--format", action="append", choices=list(FORMATS))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    first = given.first
    for name in given.format or FORMATS:
        kind = FORMATS[name]
        folder = given.folder / name.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.is_file():
                old.unlink()
        limit_memory(None)
        seeds = kind.make(folder)
        originals = [kind.unpack(path.read_bytes()) for path in seeds]
        for path in seeds:
            kind.read(path)  # an intact file is read, and everything is imported
        limit_memory(MEMORY)
        for number in range(first, given.count) if given.only is None else (given.only,):
            rng = random.Random(f"{name} {number}")
            at = rng.randrange(len(seeds))
            intact = seeds[at].read_bytes()
            damaged = kind.pack(mutate(originals[at], rng, text=kind.text), rng)
            seeds[at].write_bytes(damaged)
            print(f"read {name} {number}", flush=True)
            try:
                kind.read(seeds[at])
                said = "value"
            except MedformerError as error:
                said = "refused"
                if given.only is not None:
                    said = f"refused {type(error).__name__}: {error}"
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)
                ours = next((frame for frame in reversed(place) if "/medformer/" in frame.filename), place[-1])
                where = f"{Path(ours.filename).name}:{ours.lineno}"
                said = f"fault {type(error).__name__} at {where}: {str(error)[:120]!r}"
                if given.only is not None:
                    traceback.print_exc(file=sys.stdout)
            print(said, flush=True)
            if not given.keep:
                seeds[at].write_bytes(intact)
        first = 0


if __name__ == "__main__":
    main()
