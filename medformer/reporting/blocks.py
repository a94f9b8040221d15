"""What a section is made of. Sections are data; the template turns them into HTML and escapes every text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["warning", "info", "ok"]
"""A caution, a note, or a good sign."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Notice:
    """A boxed sentence that must not be overlooked, or that reassures."""

    level: Level
    text: str
    kind: str = field(default="notice", init=False)


@dataclass(frozen=True)
class Verdict:
    """What a check found, in one sentence; `section` is the part of the report that shows why."""

    level: Level
    name: str
    text: str
    section: str


@dataclass(frozen=True)
class Checks:
    """Verdicts under each other."""

    caption: str
    verdicts: Sequence[Verdict]
    kind: str = field(default="checks", init=False)


@dataclass(frozen=True)
class Listing:
    """Bullet points; a label folds them away until opened."""

    items: Sequence[str]
    label: str = ""
    kind: str = field(default="listing", init=False)


@dataclass(frozen=True)
class KeyFact:
    """A number that stands out, with what it is and how sure it is."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class KeyFacts:
    """A row of key facts; the first one is the largest."""

    facts: Sequence[KeyFact]
    kind: str = field(default="keyfacts", init=False)


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row.

    Attributes:
        caption: What it shows; read out before the table.
        header: Column names.
        rows: Cells, as text.
        text_columns: How many columns from the left are text; the others are numbers and align right.
        total: A last row that stays last however the table is sorted.
        sortable: Whether another order of the rows would tell a reader something.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    total: Sequence[str] = ()
    sortable: bool = True
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Figure:
    """An inline SVG made by `medformer.reporting.figures.charts`.

    Attributes:
        svg: The drawing; the only text that is not escaped, because it is ours.
        alt: What it shows, for those who do not see it.
        caption: What to look at.
    """

    svg: str
    alt: str
    caption: str
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Picture:
    """One case of a gallery.

    Attributes:
        source: A `data:` URI; empty when the picture could not be had.
        alt: What it shows, or why it is missing.
        title: The case.
        lines: Numbers under it.
    """

    source: str
    alt: str
    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Pictures under a heading; wide ones are twice as wide as others on the page."""

    title: str
    pictures: Sequence[Picture]
    wide: bool = False
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Code:
    """Text to copy; `folded` hides it behind its label until opened."""

    label: str
    text: str
    folded: bool = False
    kind: str = field(default="code", init=False)


Block = Text | Notice | Checks | Listing | KeyFacts | Table | Figure | Gallery | Code


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading and an entry in the contents."""

    key: str
    title: str
    blocks: Sequence[Block]


def number(value: object, digits: int = 3) -> str:
    """Format a number; what is missing or could not be computed is a dash."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    text = str(value) if isinstance(value, int) else f"{value:.{digits}f}"
    return text.replace("-", "−")


def signed(value: object, digits: int = 3) -> str:
    """Format a difference with its sign; a difference of 0 has none."""
    text = number(value, digits)
    if text == "–" or text.startswith("−"):
        return text if text == "–" or any(digit in text for digit in "123456789") else text[1:]
    return f"+{text}" if float(text) else text


def interval(block: object, digits: int = 3) -> str:
    """Format the interval of a metric's summary, or a dash."""
    if not isinstance(block, Mapping) or number(block.get("low")) == "–":
        return "–"
    return f"{number(block['low'], digits)} to {number(block['high'], digits)}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def short(name: str, longest: int) -> str:
    """Keep both ends of a long name."""
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
