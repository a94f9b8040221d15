"""How values and counts are written in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from medformer.evaluation.number_format import PRINTED
from medformer.evaluation.number_format import shorten as shorten_plainly

MISSING = PRINTED.missing
number = PRINTED.number
signed = PRINTED.signed
p_value = PRINTED.p_value
between = PRINTED.interval
shorten = partial(shorten_plainly, gap="…")


def interval(summary: object, digits: int = 3) -> str:
    """Write the interval of a summary, or a dash."""
    return between(summary.get("low"), summary.get("high"), digits) if isinstance(summary, Mapping) else MISSING


def percent(share: object, digits: int = 0, *, signed: bool = False) -> str:
    """Write a share as a percentage, or a dash."""
    if not isinstance(share, (int, float)) or not math.isfinite(share):
        return MISSING
    spell = PRINTED.signed if signed else PRINTED.number
    return f"{spell(100.0 * share, digits)}%"


def thousands(count: int) -> str:
    """Write a count with a comma after thousands."""
    return f"{count:,}"


def share(count: int, whole: int) -> str:
    """Write a count with its share of the whole: `12 (50%)`, or a dash."""
    return f"{thousands(count)} ({percent(count / whole)})" if whole else MISSING


def plural(count: int, one: str, many: str) -> str:
    """Choose the word for a count."""
    return one if count == 1 else many
