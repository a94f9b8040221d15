"""The values of a mask that a user names as foreground: `1`, `1,2`, `128-255`, `ff0000`."""

from __future__ import annotations

import re

Foreground = tuple[str, ...]
"""Names of values: numbers, ranges and colors. Empty where none are named, and the mask itself must tell."""

_NUMBER = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_COLOR = re.compile(r"#?([0-9a-f]{6})")


def parse_foreground(text: str) -> Foreground:
    """Split and check names of values.

    Args:
        text: Numbers from 0 to 65535, ranges such as `128-255`, and colors of six hexadecimal digits such as `ff0000`
            (red), separated by commas, semicolons or spaces.

    Raises:
        ValueError: It is something else; the message says what was found and what is expected.
    """
    names = [name.removeprefix("#") for name in re.split(r"[\s,;]+", text.strip().lower()) if name]
    wrong = [name for name in names if number_range(name) is None and color(name) is None]
    if wrong or (text.strip() and not names):
        raise ValueError(
            f"foreground '{wrong[0] if wrong else text}'; expected mask values such as 1, 1,2 or 128-255, or colors of "
            "six hexadecimal digits such as ff0000"
        )
    return tuple(dict.fromkeys(names))


def number_range(name: str) -> tuple[int, int] | None:
    """The lowest and highest number that a name stands for; None for a color."""
    match = _NUMBER.fullmatch(name)
    if match is None:
        return None
    low = int(match[1])
    high = int(match[2] or low)
    return (low, high) if low <= high <= 65535 else None


def color(name: str) -> int | None:
    """The color that a name stands for, as 0xRRGGBB; None for numbers."""
    match = _COLOR.fullmatch(name)
    return int(match[1], 16) if match else None
