"""Listing volumes for prediction: files, folders of them at any depth, and DICOM series, each with an id.

The id is the path below the folder that was given, without ending and number of a channel, as in the layout of DICOM
series (`layout_readers`); of a file that was given itself, its name. Where two would have one id, all are named from
the folder above all that was given.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from medformer.data.cases import Case
from medformer.data.folders import split_ending
from medformer.data.problems import Problem
from medformer.data.volumes.read.channels import CHANNEL, ENDINGS, channel_fault
from medformer.data.volumes.read.layout_readers import LABEL_FOLDERS
from medformer.errors import DataError
from medformer.files import walk
from medformer.imaging.dicom_files import NO_IMAGES, find_series, looks_like_dicom
from medformer.imaging.volumes import count_channels

Channels = Mapping[int, Path]
"""Files by the number of their channel."""


def list_volumes(
    given: Sequence[Path], problems: list[Problem], *, channels: int = 1, without: Path | None = None
) -> list[Case]:
    """List NIfTI files and DICOM series as cases, each once.

    A folder stands for every NIfTI file and every DICOM series below it; folders of label maps below it are left out.
    With several channels, files named `ID_0000`, `ID_0001`, ... are one case, in one folder or in one for each channel,
    and a file that holds several channels itself is one.

    Args:
        given: Files and folders.
        problems: Receives what is left out, and the cases that cannot be used.
        channels: That the network sees.
        without: A folder whose files are left out: that of the results.

    Raises:
        DataError: There is no volume, two have one id, or a folder cannot be listed.
        ConfigError: A folder holds DICOM, and the extra `dicom` is not installed.
    """
    tops: dict[Path, Path] = {}
    for path in (Path(os.path.abspath(path)) for path in given):
        for file in _below(path, without, problems) if path.is_dir() else (path,):
            tops.setdefault(file, path if path.is_dir() else path.parent)
    if not tops:
        left_out = "".join(f"\n  {problem}" for problem in problems[:10])
        raise DataError(
            f"No volume in {', '.join(map(str, given))}; expected files ending in {', '.join(ENDINGS)}, or folders of "
            f"DICOM series.{left_out}"
        )
    names = _unique({file: _name(file, top) for file, top in tops.items()}, list(tops.values()))
    if channels == 1:
        return [Case(name, file) for file, name in _without_number(names, problems).items()]
    whole = {file: name for file, name in names.items() if _holds_channels(file)}
    single = {file: name for file, name in names.items() if file not in whole}
    found, faults = min(
        (_grouped(single, key, channels) for key in (lambda name: name, lambda name: PurePosixPath(name).name)),
        key=lambda one: len(one[1]),
    )
    problems += faults
    if twice := [(file, found[name][0]) for file, name in whole.items() if name in found]:
        one, other = twice[0]
        raise DataError(f"{one} and {other} are of one case by their names. Give every volume a name of its own.")
    several = [Case(name, files[0], further=tuple(files[1:])) for name, files in found.items()]
    return [*(Case(name, file) for file, name in whole.items()), *several]


def _holds_channels(file: Path) -> bool:
    try:
        return count_channels([file]) > 1
    except DataError:  # it is said where files are read
        return False


def _below(folder: Path, without: Path | None, problems: list[Problem]) -> Iterator[Path]:
    """Every volume below a folder: NIfTI files, then folders of DICOM series."""
    results = None if without is None else without.resolve()

    def leave_out(place: Path) -> bool:
        if results is not None and place.resolve().is_relative_to(results):
            return True
        if place.name not in LABEL_FOLDERS:
            return False
        problems.append(Problem(place.name, str(place), "is-labels", "label maps are left out; name it to predict it"))
        return True

    dicom = False
    places = []
    if results is not None and folder.resolve().is_relative_to(results):
        return
    for place, files in walk(folder, leave_out=leave_out):
        places.append(place)
        for file in files:
            if not file.name.lower().endswith(ENDINGS):
                dicom = dicom or looks_like_dicom(file)
            elif file.is_symlink() and not file.exists():
                detail = f"it leads to {file.readlink()}"
                problems.append(Problem(_name(file, folder), str(file), "broken-link", detail))
            else:
                yield file
    for series in find_series(folder) if dicom else ():
        if series.folder not in places:
            continue
        if series.modality in NO_IMAGES:
            detail = f"its modality is {series.modality}"
            problems.append(Problem(_name(series.folder, folder), str(series.folder), "not-an-image", detail))
        else:
            yield series.folder


def _name(file: Path, top: Path) -> str:
    relative = file.name if file == top else file.relative_to(top).as_posix()
    if file.is_dir():
        return unicodedata.normalize("NFC", relative)
    stem, ending = split_ending(unicodedata.normalize("NFC", relative), ENDINGS)
    return stem if ending else PurePosixPath(stem).with_suffix("").as_posix()


def _unique(names: Mapping[Path, str], tops: Sequence[Path]) -> Mapping[Path, str]:
    """The names as they are, or where two are equal, those from the folder above everything.

    Raises:
        DataError: Two are equal even so.
    """
    if len(set(names.values())) < len(names):
        root = Path(os.path.commonpath(tops))
        names = {file: _name(file, root) for file in names}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        files = [str(file) for file, name in names.items() if name == twice[0]]
        raise DataError(f"{' and '.join(files)} have one name, '{twice[0]}'. Give every volume a name of its own.")
    return names


def _without_number(names: Mapping[Path, str], problems: list[Problem]) -> dict[Path, str]:
    """Names without the _0000 of an only channel; where other numbers follow, they stay in the names, which is said."""
    numbers: dict[str, list[str]] = {}
    for name in names.values():
        if match := CHANNEL.fullmatch(name):
            numbers.setdefault(match[1], []).append(match[2])
    for case, found in numbers.items():
        if {"0000", "0001"} <= set(found):
            detail = f"_{', _'.join(found[:4])}: the network sees one channel, so each is taken for a scan of its own"
            problems.append(Problem(case, "", "numbered", detail))
        elif found == ["0001"]:
            detail = "_0001: the network sees one channel; if this is the second one of a case, leave it out"
            problems.append(Problem(case, "", "numbered", detail))
    only = {case for case, found in numbers.items() if found == ["0000"]} - set(names.values())
    short = {f"{case}_0000": case for case in only}
    return {file: short.get(name, name) for file, name in names.items()}


def _grouped(
    names: Mapping[Path, str], key: Callable[[str], str], count: int
) -> tuple[dict[str, list[Path]], list[Problem]]:
    """The files of each case in the order of their channels, and a problem for each case that is not complete."""
    cases: dict[str, list[tuple[int, Path]]] = {}
    problems = []
    for file, name in names.items():
        match = CHANNEL.fullmatch(name)
        if match is None:
            detail = (
                f"it is one channel, and its name has no number; the network sees {count}: one file that holds them "
                "along a fourth axis, or files ID_0000, ID_0001, ..."
            )
            problems.append(Problem(name, str(file), "wrong-channels", detail))
        else:
            cases.setdefault(key(match[1]), []).append((int(match[2]), file))
    found = {}
    for name, numbered in cases.items():
        files = [file for _, file in sorted(numbered)]
        if fault := channel_fault((number for number, _ in numbered), count):
            shown = ", ".join(str(file) for file in files[:4])
            problems.append(Problem(name, str(files[0]), "wrong-channels", f"{fault} ({shown})"))
        else:
            found[name] = files
    return found, problems
