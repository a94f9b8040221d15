"""What folders of images have in common, whatever their layout: files by name, and the group that a name contains."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from medformer.data.problems import Problem
from medformer.errors import ConfigError, DataError
from medformer.files import walk


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
    entries = sorted(file for _, files in walk(folder) for file in files) if nested else _entries(folder)
    for entry in entries:
        relative = entry.relative_to(folder)
        if entry.name == "Thumbs.db":  # Windows keeps its previews there
            continue
        stem, ending = split_ending(unicodedata.normalize("NFC", relative.as_posix()), endings)
        if entry.is_symlink() and not entry.exists():
            problems.append(Problem(place + stem, str(entry), "broken-link", f"it leads to {entry.readlink()}"))
        elif ending and entry.is_file():
            found.setdefault(stem, []).append(Path(os.path.abspath(entry)))
        elif entry.suffix.lower() != ".img" or not entry.with_suffix(".hdr").is_file():
            what = "is a folder" if entry.is_dir() else f"has the ending '{entry.suffix}'"
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
    """The first of several names that is a folder below `folder`; None where there is none."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def natural_order(stem: str) -> tuple[tuple[bool, int, str], ...]:
    """Order 2 before 10."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", stem))


def group_expression(pattern: str | None) -> re.Pattern[str] | None:
    """Compile a group pattern.

    Raises:
        ConfigError: It does not compile or has not exactly one group.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"The group pattern '{pattern}' is not a regular expression: {error}.") from None
    if compiled.groups != 1:
        raise ConfigError(
            f"The group pattern '{pattern}' has {compiled.groups} groups; expected exactly one pair of parentheses, "
            "around the patient or sequence, such as '^(\\d+)_'."
        )
    return compiled


def find_group(pattern: re.Pattern[str], name: str) -> str:
    """The group that a name contains; empty where the pattern does not occur in it."""
    match = pattern.search(name)
    return (match.group(1) or "") if match else ""
