"""How numbers and counts are written in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping

MISSING = "–"
"""What is not known or could not be computed."""


def number(value: object, digits: int = 3) -> str:
    """Format a number; what is missing or could not be computed is a dash."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return MISSING
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
    return text.replace("-", "−")


def signed(value: object, digits: int = 3) -> str:
    """Format a difference with its sign; a difference of 0 has none."""
    text = number(value, digits)
    if text == MISSING or text.startswith("−"):
        return text if text == MISSING or any(digit in text for digit in "123456789") else text[1:]
    return f"+{text}" if float(text) else text


def percent(share: object, digits: int = 0) -> str:
    """Format a share as a percentage."""
    known = isinstance(share, (int, float)) and math.isfinite(share)
    return f"{number(100 * float(share), digits)}%" if known else MISSING  # type: ignore[arg-type]


def interval(summary: object, digits: int = 3) -> str:
    """Format the interval of a metric's summary, or a dash."""
    if not isinstance(summary, Mapping) or number(summary.get("low")) == MISSING:
        return MISSING
    return f"{number(summary['low'], digits)} to {number(summary['high'], digits)}"


def counted(count: int, noun: str, many: str = "") -> str:
    """Write a count with its noun: `1 image`, `2 images`."""
    return f"{count:,} {plural(count, noun, many or noun + 's')}"


def plural(count: int, one: str, many: str) -> str:
    """Choose the word for a count."""
    return one if count == 1 else many


def shorten(name: str, longest: int) -> str:
    """Keep both ends of a long name."""
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
