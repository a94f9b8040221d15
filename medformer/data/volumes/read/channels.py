"""Files of one channel each: `<case>_0000`, `<case>_0001`, ... are the channels of a case, ordered by number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medformer.data.problems import Problem

ENDINGS = (".nii.gz", ".nii", ".hdr")
"""What the name of a volume ends in; the `.img` of a `.hdr` belongs to it."""

CHANNEL = re.compile(r"(.+)_(\d{4})")
"""Name of a file of one channel: the case, and the channel's number."""


def by_channel(
    images: Mapping[str, Path], expected: Sequence[str], problems: list[Problem]
) -> dict[str, tuple[Path, ...]]:
    """Group files by case, in the order of their channels' numbers; a case that lacks one becomes a problem.

    Args:
        images: Files by name.
        expected: Names of the channels; empty for as many as most cases have.
        problems: Receives what does not fit.
    """
    by_case: dict[str, dict[int, Path]] = {}
    for stem, path in images.items():
        match = CHANNEL.fullmatch(stem)
        if match is None:
            detail = "its name does not end in the number of a channel, such as _0000"
            problems.append(Problem(stem, str(path), "not-an-image", detail))
        else:
            by_case.setdefault(match.group(1), {})[int(match.group(2))] = path
    usual = Counter(max(files) + 1 for files in by_case.values()).most_common(1)
    count = len(expected) or (usual[0][0] if usual else 0)
    complete = {}
    for case, files in by_case.items():
        if fault := channel_fault(files, count):
            named = f" ({', '.join(expected)})" if expected else ""
            problems.append(Problem(case, str(next(iter(files.values()))), "wrong-channels", fault + named))
        else:
            complete[case] = tuple(files[number] for number in sorted(files))
    return complete


def channel_fault(numbers: Iterable[int], count: int) -> str:
    """Say what is wrong with the numbers of a case's channels; empty where they are 0 to `count` - 1."""
    found = sorted(numbers)
    if found == list(range(count)):
        return ""
    given, wanted = (", ".join(f"{number:04}" for number in some) for some in (found, range(count)))
    lacking = ", ".join(f"_{number:04}" for number in range(count) if number not in found)
    surplus = ", ".join(f"_{number:04}" for number in found if number >= count)
    what = f"{lacking} is missing" if lacking else f"{surplus} is too much"
    return f"has the channels {given}; expected {wanted}: {what}"


def has_channel_numbers(images: Mapping[str, Path], labels: Mapping[str, Path]) -> bool:
    """Whether names of images end in the number of a channel, which those of the label maps do not repeat.

    Most cases decide, so that a stray file changes nothing.
    """
    cases = {match[1] for match in map(CHANNEL.fullmatch, images) if match}
    return len(cases & labels.keys()) > len(images.keys() & labels.keys())
