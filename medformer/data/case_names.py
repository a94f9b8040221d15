"""Which case a name in somebody else's list means: an id, the name of a file, or a path, with or without its ending."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from medformer.data.cases import Case
from medformer.data.frames.named_splits import canonical_dataset
from medformer.data.people import plain
from medformer.errors import DataError

_ENDING = re.compile(r"\.(nii\.gz|[A-Za-z][A-Za-z0-9]{1,4})$")
_CHANNEL = re.compile(r"_\d{4}$")
"""nnU-Net ends the names of images in the number of the channel."""

_COMMON = frozenset(
    {"images", "image", "original", "masks", "mask", "ground truth", "labels", "label", "train", "val", "test"}
    | {"imagestr", "imagests", "labelstr", "labelsts", "traindataset", "testdataset", "."}
)
"""Folders whose names say nothing of the data set."""


def without_ending(name: str) -> str:
    """A file's name without the ending of a picture, volume or table."""
    return _ENDING.sub("", name)


def posix_name(name: str) -> str:
    """A name as tables of other systems may write it, with forward slashes and composed accents."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


class CaseNames:
    """The cases of a data set by everything that a list may call them.

    A name is looked for as an id; without its ending; as the end of a path or id, whose folders may also be the data
    set's name; and, for people, without the zeros and `sub-` that tables add (`medformer.data.people`). The name of a
    group stands for its case where it has only one.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self.cases = tuple(cases)
        self._ids = {case.id: case for case in self.cases}
        self._last: dict[str, list[Case]] = defaultdict(list)
        self._plain: dict[str, list[Case]] = defaultdict(list)
        self._people: dict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            self._plain[plain(case.id)].append(case)
            if case.group:
                self._people[plain(case.group)].append(case)
            for name in {path.name for path in _paths(case)}:
                self._last[name].append(case)

    def find(self, name: str) -> str | None:
        """The id of the case that a name means; None where it means none.

        Raises:
            DataError: It may mean several.
        """
        name = posix_name(name)
        short = without_ending(name)
        for spelled in dict.fromkeys((name, short, _CHANNEL.sub("", short))):
            if spelled in self._ids:
                return spelled
            path = PurePosixPath(spelled)
            found = self._last.get(path.name, [])
            if any(part.casefold() not in _COMMON for part in path.parts[:-1]):
                found = [case for case in found if _fits(case, path)]
            if found:
                return _only(name, found)
        people = self._plain.get(plain(name)) or self._plain.get(plain(short)) or []
        if not people and len(own := self._people.get(plain(name), [])) == 1:
            people = own
        return _only(name, people) if people else None


def _paths(case: Case) -> list[PurePosixPath]:
    """What the file of a case may be called, without endings; one of several channels also without its number."""
    named = [PurePosixPath(case.id)]
    for file in (case.image, case.mask):
        if file is not None:
            path = PurePosixPath(without_ending(posix_name(Path(file).as_posix())))
            named += [path, path.with_name(_CHANNEL.sub("", path.name) or path.name)]
    return [path for path in named if path.name]


def _fits(case: Case, path: PurePosixPath) -> bool:
    """Whether a path of several parts can be that of a case: its end, or the data set's name before the file's."""
    count = len(path.parts)
    if any(known.parts[-count:] == path.parts for known in _paths(case)):
        return True
    folders = {canonical_dataset(part) for part in path.parts[:-1]}
    return bool(case.site) and canonical_dataset(case.site) in folders


def _only(name: str, found: Sequence[Case]) -> str:
    ids = list(dict.fromkeys(case.id for case in found))
    if len(ids) > 1:
        raise DataError(
            f"'{name}' may be the case {' or '.join(repr(id_) for id_ in ids[:3])}; expected a name that only one case "
            "has. Write the ids of the data, or the folder before the file's name."
        )
    return ids[0]
