"""How numbers are spelled for a reader: a metric's value, a difference, an interval, a p-value and a count."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MOST_DIGITS = 6


@dataclass(frozen=True)
class NumberFormat:
    """One way to spell numbers.

    Attributes:
        missing: Stands for what is missing or could not be computed.
        minus: The sign of negative numbers.
    """

    missing: str
    minus: str

    def number(self, value: object, digits: int = 3) -> str:
        """Spell a number; integers without decimals, and nothing but a finite number as a number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return self.missing
        text = str(value) if isinstance(value, int) else f"{value:.{digits}f}"
        # What is spelled as 0 has no sign.
        return text.replace("-", self.minus) if float(text) else text.removeprefix("-")

    def signed(self, value: object, digits: int = 3) -> str:
        """Spell a difference with its sign; one that is spelled as 0 has none."""
        text = self.number(value, digits)
        if text == self.missing:
            return text
        bare = text.removeprefix(self.minus)
        return bare if not float(bare) else text if text.startswith(self.minus) else f"+{text}"

    def interval(self, low: object, high: object, digits: int = 3, *, signed: bool = False, reason: str = "") -> str:
        """Spell an interval by its two ends; one without a lower end is missing, for a reason if there is one.

        The interval of a difference that excludes 0 has more decimals where an end would be spelled as 0.
        """
        spell = self.signed if signed else self.number
        if spell(low) == self.missing:
            return f"none ({reason})" if reason else self.missing
        if signed and isinstance(low, float) and isinstance(high, float) and low * high > 0:
            nearest = min(abs(low), abs(high))
            digits = next((more for more in range(digits, _MOST_DIGITS) if round(nearest, more)), _MOST_DIGITS)
        return f"{spell(low, digits)} to {spell(high, digits)}"

    def p_value(self, p: float) -> str:
        """Spell a p-value with three decimals, and never as 0."""
        if not math.isfinite(p):
            return self.missing
        return "<0.001" if p < 0.001 else "1" if p > 0.9995 else f"{p:.3f}"


PLAIN = NumberFormat(missing="-", minus="-")
"""For terminals and text files of any kind: ASCII alone."""

PRINTED = NumberFormat(missing="–", minus="−")
"""For pages: an en dash for what is missing, and the minus sign of mathematics."""


def shorten(name: str, longest: int, gap: str = "...") -> str:
    """Keep both ends of a name that is longer than `longest` characters."""
    if len(name) <= longest:
        return name
    head = (longest - len(gap)) // 2
    return f"{name[:head]}{gap}{name[head + len(gap) - longest :]}"
