"""Listing volumes to predict, from files and folders as a user names them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medformer.data.manifest import Case
from medformer.data.volumes.read.layout_readers import ENDINGS
from medformer.errors import DataError

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def list_volumes(given: Sequence[Path], *, channels: int = 1, without: Path | None = None) -> list[Case]:
    """List NIfTI files and DICOM series as cases, each once.

    A folder stands for every NIfTI file below it; one that has none, for every folder of a DICOM series below it. With
    several channels, files named `ID_0000`, `ID_0001`, ... are one case; a single file is one in any case.

    Args:
        given: Files and folders.
        channels: That the network sees.
        without: A folder whose files are left out: that of the results.

    Raises:
        DataError: There is no volume, a case lacks channels, or two have one name.
        ConfigError: A folder holds DICOM, and the extra `dicom` is not installed.
    """
    files = [file for path in given for file in (_below(path, without) if path.is_dir() else (path,))]
    cases: dict[str, list[Path]] = {}
    for file in dict.fromkeys(Path(os.path.abspath(file)) for file in files):
        name = file.name if file.is_dir() else _stem(file)
        match = _CHANNEL.fullmatch(name) if channels > 1 else None
        cases.setdefault(match[1] if match else name, []).append(file)
    if not cases:
        raise DataError(
            f"No volume in {', '.join(map(str, given))}; expected files ending in {', '.join(ENDINGS)}, or folders of "
            "DICOM series."
        )
    for name, paths in cases.items():
        if len(paths) != channels:
            shown = ", ".join(str(path) for path in paths[:4])
            raise DataError(
                f"'{name}' has {len(paths)} file(s) ({shown}); the network was trained on {channels} channel(s). "
                + ("Name them ID_0000, ID_0001, ..." if channels > 1 else "Give every volume a name of its own.")
            )
    return [Case(name, sorted(paths)[0], further=tuple(sorted(paths)[1:])) for name, paths in cases.items()]


def _below(folder: Path, without: Path | None) -> Iterator[Path]:
    def wanted(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return not hidden and (without is None or not path.resolve().is_relative_to(without.resolve()))

    volumes = [path for path in sorted(folder.rglob("*")) if wanted(path) and _is_volume(path)]
    if volumes:
        yield from volumes
        return
    from medformer.imaging.dicom import find_series

    yield from sorted({series.folder for series in find_series(folder) if wanted(series.folder)})


def _is_volume(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def _stem(file: Path) -> str:
    ending = next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), file.suffix)
    return file.name[: len(file.name) - len(ending)]
