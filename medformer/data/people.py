"""Who is who: one rule for the ids of people, which tables and names of files spell differently.

Spreadsheets drop the zeros of `0050772` or make it `50772.0`, and BIDS writes `sub-0050772`. Equal texts are one
person. A text that equals no other is compared by its plain form, which must be that of one id on either side alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

from medformer.errors import DataError

PERSON_COLUMNS = ("sub_id", "participant_id", "subject_id", "subject", "subid", "sub", "id", "ids")
"""Names of the column that says who somebody is, as `column_name` gives them; the first that is there counts."""


def column_name(text: str) -> str:
    """How a column's name is compared: in lower case, words joined by `_`."""
    return re.sub(r"[\s-]+", "_", text.strip().lower())


def plain(name: str) -> str:
    """An id without what only some tables write: `50772` for `sub-0050772`, `0050772` and `50772.0`."""
    head, rest = _split(re.sub("^sub-", "", name.strip()))
    number = head.removesuffix(".0")
    return (number.lstrip("0") or "0") + rest if number.isascii() and number.isdigit() else head + rest


def match_people(known: Collection[str], names: Iterable[str], what: str, *, whole: bool = False) -> dict[str, str]:
    """Find the person of each name.

    Args:
        known: Ids of people, as a table has them.
        names: Ids, or names that go on after an id and `_`, such as `sub-01_ses-2`.
        what: What the names are, such as "files".
        whole: Whether a name is an id and does not go on after it.

    Returns:
        The known id by name; a name of nobody is absent.

    Raises:
        DataError: By the plain form a name may be one of two people, or two spellings are one person.
    """
    texts = dict.fromkeys(known)
    by_plain: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        by_plain[plain(text)].append(text)
    found: dict[str, str] = {}
    spelled: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        parts = [name] if whole else _beginnings(name)
        person = part = next((part for part in parts if part in texts), None)
        if person is None:
            part = next((part for part in parts if plain(part) in by_plain), None)
            if part is None:
                continue
            person, *others = by_plain[plain(part)]
            if others:
                raise DataError(
                    f"'{name}' may be '{person}' or '{others[0]}': without zeros in front they are the same. Spell ids "
                    f"in the table and in the {what} alike."
                )
        found[name] = person
        spelled[person].setdefault(str(part), name)
    for person, spellings in spelled.items():
        if len(spellings) > 1:
            raise DataError(
                f"The {what} {' and '.join(repr(name) for name in spellings.values())} may both be '{person}': without "
                f"zeros in front they are the same. Spell ids in the table and in the {what} alike, or keep "
                "one of them."
            )
    return found


def listed(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    return ", ".join(f"'{name}'" for name in list(names)[:3])


def _beginnings(name: str) -> list[str]:
    """The name, and what stands before each `_`, the longest first."""
    parts = name.split("_")
    return ["_".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _split(name: str) -> tuple[str, str]:
    head, separator, rest = name.partition("_")
    return head, separator + rest
