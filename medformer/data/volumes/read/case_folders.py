"""A folder for each case, whose files begin with the folder's name: BraTS's layout.

The challenge of 2023 and later calls the files of a case `<case>-t1n`, `-t1c`, `-t2w`, `-t2f` and `-seg`, earlier ones
`<case>_t1`, `_t1ce`, `_t2`, `_flair` and `_seg`, each with the ending of a NIfTI file. What follows the name is the
channel, or says that the file is the label map. Case folders may lie at any depth, such as in `HGG/` and `LGG/`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medformer.data.cases import Case
from medformer.data.folders import files_by_name, natural_order, split_ending
from medformer.data.problems import Problem
from medformer.data.volumes.read.channels import ENDINGS
from medformer.files import walk

_LABELS = ("seg", "segmentation", "label", "labels", "mask")
_ORDER = ("t1n", "t1", "t1c", "t1ce", "t1gd", "t2w", "t2", "t2f", "flair")
"""Channels of BraTS in the order of its own lists; others follow, in the order of their names."""

_PATIENT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d{3}")
"""`BraTS-GLI-00005-001` is the second scan of the patient `BraTS-GLI-00005`; earlier names tell no patient."""


def has_case_folders(folder: Path) -> bool:
    """Whether a folder below it (or itself) has two or more files of volumes that begin with the folder's name."""
    return any(len(_parts(place, files)) > 1 for place, files in walk(folder))


def find_cases(folder: Path, problems: list[Problem]) -> tuple[list[Case], tuple[str, ...]]:
    """List the cases in their folders, and the names of their channels.

    Args:
        folder: Where to look.
        problems: Receives what is left out, and label maps that are missing where others are there.

    Returns:
        Cases whose ids are the paths of their folders, in the order of these, and the channels that most cases have.
    """
    found: dict[str, dict[str, Path]] = {}
    for place, files in walk(folder):
        if parts := _parts(place, files):
            inside = "" if place == folder else unicodedata.normalize("NFC", place.relative_to(folder).as_posix())
            name = inside or _name(place)
            readable = set(files_by_name(place, ENDINGS, problems, place=f"{name}/").values())
            found[name] = {part: path for part, path in parts.items() if path in readable}
            problems.extend(_others(name, readable - set(parts.values())))
    channels = {name: tuple(sorted(parts.keys() - {*_LABELS}, key=_place)) for name, parts in found.items()}
    counts = Counter(channels.values())
    usual = max(counts, key=lambda some: (counts[some], len(some)), default=())
    masks = {name: next((parts[label] for label in _LABELS if label in parts), None) for name, parts in found.items()}
    cases = []
    for name in sorted(found, key=natural_order):
        parts, there = found[name], channels[name]
        if there != usual or not there:
            detail = f"has the channels {', '.join(there) or 'none'}; expected {', '.join(usual) or 'one or more'}"
            problems.append(Problem(name, str(folder / name), "wrong-channels", detail))
            continue
        if masks[name] is None and any(masks.values()):
            problems.append(Problem(name, str(parts[there[0]]), "missing-mask", "its folder holds none"))
        first, *further = (parts[channel] for channel in there)
        patient = _PATIENT.fullmatch(name.rpartition("/")[2])
        cases.append(Case(name, first, masks[name], group=patient[1] if patient else "", further=tuple(further)))
    return cases, usual


def _name(place: Path) -> str:
    return unicodedata.normalize("NFC", place.absolute().name)


def _parts(place: Path, files: list[Path]) -> dict[str, Path]:
    """Files that begin with the name of their folder, by what follows it, in lower case."""
    found = {}
    for file in files:
        stem, ending = split_ending(unicodedata.normalize("NFC", file.name), ENDINGS)
        rest = stem.removeprefix(_name(place))
        if ending and rest != stem and len(rest) > 1 and rest[0] in "-_":
            found[rest[1:].lower()] = Path(os.path.abspath(file))
    return found


def _others(name: str, files: set[Path]) -> Iterator[Problem]:
    for file in sorted(files):
        yield Problem(name, str(file), "not-read", "its name does not begin with that of its folder")


def _place(channel: str) -> tuple[int, tuple[tuple[bool, int, str], ...]]:
    known = _ORDER.index(channel) if channel in _ORDER else len(_ORDER)
    return known, natural_order(channel)
