"""Which cells of a table say that a value is not known: one vocabulary for manifests, scores, plans and reports."""

from __future__ import annotations

WORDS = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null", "unknown"})
"""What tables write where a value is missing, in lower case."""


def known(cell: object) -> str:
    """The text of a cell without the space around it; empty where the cell says that the value is not known."""
    text = "" if cell is None else str(cell).strip()
    return "" if text.lower() in WORDS else text


def is_missing(cell: object) -> bool:
    """Whether a cell, as read from a file or as a value in memory, says that the value is not known."""
    return not known(cell)
