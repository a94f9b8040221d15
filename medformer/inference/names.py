"""One output name per input file, so that two `frame001.png` from two folders never overwrite each other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medformer.errors import DataError


def output_names(paths: Sequence[Path]) -> list[str]:
    """Name the outputs of input files.

    The stem, when all stems differ. Otherwise every file is named by its path below the folder that they share,
    without the suffix: `site_a/frame001` and `site_b/frame001`. Capital letters do not tell names apart, because
    on many file systems they do not tell files apart.

    Args:
        paths: Input files; relative and absolute paths may mix.

    Raises:
        DataError: Two files would still share a name, such as `frame001.png` beside `frame001.jpg`.
    """
    resolved = [Path(path).absolute() for path in paths]
    stems = [path.stem for path in resolved]
    if _collision(stems) is None:
        return stems
    folder = Path(os.path.commonpath([path.parent for path in resolved]))
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in resolved]
    clash = _collision(names)
    if clash is not None:
        first, second = clash
        raise DataError(
            f"{paths[first]} and {paths[second]} would both be exported as '{names[second]}'. "
            "Rename one of them, or predict them into different folders."
        )
    return names


def check_name(name: str) -> str:
    """Return `name` if it stays inside the output folder.

    Raises:
        DataError: The name is empty, absolute, climbs out with `..`, or holds characters that files cannot.
    """
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not name.startswith("/") and ".." not in parts
    if not inside or any(character in '\\:*?"<>|' or ord(character) < 32 for character in name):
        raise DataError(
            f"The case id {name!r} cannot name a file below the output folder. "
            "Use letters, digits, dots, dashes and underscores, with / between folders."
        )
    return name


def _collision(names: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the first two names that are equal but for capital letters."""
    folded = [name.casefold() for name in names]
    repeated = next((name for name, times in Counter(folded).items() if times > 1), None)
    if repeated is None:
        return None
    first = folded.index(repeated)
    return first, folded.index(repeated, first + 1)
