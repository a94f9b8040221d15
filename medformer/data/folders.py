"""What folders of images have in common, whatever their layout: files by name, and what a name contains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from medformer.data.problems import Problem, first_ten
from medformer.errors import ConfigError, DataError, counted
from medformer.files import file_fault, files_below
from medformer.names import id_fault


def files_by_name(
    folder: Path, endings: tuple[str, ...], problems: list[Problem], *, place: str = "", nested: bool = False
) -> dict[str, Path]:
    """List the files of a folder by their names without ending.

    Files with other endings, and files that share a name, are reported and left out.

    Args:
        folder: Where to look; hidden files are skipped.
        endings: Of the files that are wanted, in lower case.
        problems: Receives what is left out, links that lead to nothing among it.
        place: What stands before a name in the id of a problem.
        nested: Whether folders below count too; their names are then part of the files' names.

    Raises:
        DataError: A folder cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    entries = files_below(folder) if nested else _entries(folder)
    for entry in entries:
        relative = entry.relative_to(folder)
        if entry.name == "Thumbs.db":  # Windows keeps its previews there
            continue
        stem, ending = split_ending(unicodedata.normalize("NFC", relative.as_posix()), endings)
        stem = stem.strip()  # as the cells of a manifest are
        fault = file_fault(entry)
        if entry.is_symlink() and fault.startswith("does not exist"):
            problems.append(Problem(place + stem, str(entry), "broken-link", f"it leads to {entry.readlink()}"))
        elif ending and not fault:
            unusable = id_fault(stem)
            if unusable:
                problems.append(Problem(place + stem, str(entry), "bad-name", unusable))
            else:
                found.setdefault(stem, []).append(Path(os.path.abspath(entry)))
        elif ending and fault != "is a folder":
            problems.append(Problem(place + stem, str(entry), "not-readable", f"it {fault}"))
        elif entry.suffix.lower() != ".img" or not entry.with_suffix(".hdr").is_file():
            what = fault or f"has the ending '{entry.suffix}'"
            problems.append(Problem(place + stem.removesuffix(entry.suffix), str(entry), "not-an-image", what))
    for stem, files in found.items():
        if len(files) > 1:
            detail = f"{', '.join(file.name for file in files)} share a name; all are left out; keep one of them"
            problems.append(Problem(place + stem, str(files[0]), "duplicate-name", detail))
    return {stem: files[0] for stem, files in found.items() if len(files) == 1}


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, without what is hidden: macOS leaves a ._name beside every file it copies."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be listed ({error.strerror}); expected one that this user may read. "
            "Change its access."
        ) from error


def split_ending(name: str, endings: Iterable[str]) -> tuple[str, str]:
    """Split a file's name into its stem and the one of the endings that it has; without any, the ending is empty."""
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], ending


def first_folder(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of several names that is a folder below `folder`; None where there is none.

    Raises:
        DataError: `folder` cannot be listed.
    """
    there = {entry.name for entry in folders_below(folder)}
    return next((folder / name for name in names if name in there), None)


def folders_below(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names; see `first_folder` for errors."""
    # `Path.is_dir` fails where a folder may be listed and not entered.
    return [entry for entry in _entries(folder) if os.path.isdir(entry)]


def natural_order(stem: str) -> tuple[tuple[bool, int, str], ...]:
    """Order 2 before 10."""
    # Of ASCII digits alone: what else counts as a digit, such as a superscript, may be no number.
    parts = re.split(r"([0-9]+)", stem)
    # Python refuses to read numbers of thousands of digits.
    return tuple((bool(place % 2), int(part[:1000]) if place % 2 else 0, part) for place, part in enumerate(parts))


_PATTERN_SECONDS = 20.0
"""How long a pattern may search all names; some patterns take longer than the universe for a name of 40 letters."""

_SEARCH = """
import json, re, sys
pattern, wanted, names = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
except (re.error, RecursionError, OverflowError, MemoryError) as error:
    print(json.dumps({"error": str(error)}))
else:
    number = compiled.groupindex.get(wanted, 1 if compiled.groups == 1 else 0)
    matches = [compiled.search(name) for name in names] if number else []
    found = [match.group(number) or "" if match else "" for match in matches]
    print(json.dumps({"number": number, "groups": compiled.groups, "found": found}))
"""

_WANTED = {"group": "the patient or sequence", "site": "the hospital or data set"}


def find_groups(pattern: str, names: Sequence[str], *, wanted: Literal["group", "site"] = "group") -> list[str]:
    """Search each name for a pattern: what its one group matched, and empty where it does not occur.

    Of several groups, the one that is called `group` or `site` counts, as in `(?P<site>...)`. The search runs in a
    process of its own, which can be ended: nothing bounds the time of a regular expression.

    Args:
        pattern: Regular expression with one group.
        names: Where to search; without any, the pattern is only checked.
        wanted: What the group is.

    Raises:
        ConfigError: The pattern does not compile, has not exactly one group, or takes too long.
    """
    what = f"The {wanted} pattern '{pattern}'"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([pattern, wanted, list(names)]),
            capture_output=True,
            text=True,
            timeout=_PATTERN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{what} was still searching {counted(len(names), 'name')} after "
            f"{_PATTERN_SECONDS:g} s. Write it without repeats inside repeats, such as '(a+)' in place of '((?:a+)+)'."
        ) from None
    if done.returncode != 0:
        raise ConfigError(f"{what} cannot be searched for: {done.stderr.strip()[-200:]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ConfigError(f"{what} is not a regular expression: {answer['error']}.")
    if not answer["number"]:
        raise ConfigError(
            f"{what} has {counted(answer['groups'], 'group')}; expected exactly one pair of parentheses, around "
            f"{_WANTED[wanted]}, such as '^(\\d+)_', or one that is named, such as '^(?P<{wanted}>\\d+)_'."
        )
    return list(answer["found"])


def find_sites(pattern: str, names: Sequence[str]) -> list[str]:
    """The site that each name contains; see `find_groups`.

    Raises:
        ConfigError: The pattern cannot be used, or what it finds cannot begin an id.
        DataError: Names contain none; the first ten are listed.
    """
    found = find_groups(pattern, names, wanted="site")
    without = [name for name, site in zip(names, found, strict=True) if not site.strip()]
    if without:
        raise DataError(
            f"The site pattern '{pattern}' finds nothing in {len(without)} of {counted(len(names), 'name')}; expected "
            f"a site in each:{first_ten(without)}\nCorrect --site-pattern, or take these files out of the folder."
        )
    for site in dict.fromkeys(found):
        if fault := id_fault(site.strip()):
            raise ConfigError(f"The site pattern '{pattern}' finds {site!a}, which cannot begin an id: {fault}.")
    return [site.strip() for site in found]
