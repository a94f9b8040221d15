"""The patient or sequence of cases, from a table or from their names: what intervals are drawn over."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from medformer.data.case_names import CaseNames
from medformer.data.cases import Case
from medformer.data.folders import find_groups
from medformer.data.tables import TableForm, read_records
from medformer.errors import DataError
from medformer.missing import known

_LISTED = 20

_GROUPS = TableForm(
    what="a CSV table of groups",
    origin="A manifest that `prepare` wrote is one.",
    columns=("id", "group"),
    required=("id", "group"),
    per_row="case",
)


def groups_of(names: Sequence[str], table: Path | None, expected: str = "ids of the scored cases") -> dict[str, str]:
    """The patient or sequence of every case, so that intervals are over these and not over single cases.

    Args:
        names: Ids of the cases.
        table: CSV with the columns `id` and `group`, such as a manifest; without one, no group is known.
        expected: What its ids should be, for the message.

    Raises:
        DataError: The table cannot be read, names a case twice, or has no group for a case.
    """
    if table is None:
        return {}

    def fault(row: Mapping[str, str]) -> str | None:
        return None if known(row["group"]) else "the group (patient or sequence) is unknown"

    rows = read_records(table, _GROUPS, fault, dict)
    group = {row["id"]: row["group"] for row in rows}
    listed = CaseNames(Case(id_) for id_ in group)
    found = {name: listed.find(name) for name in names}
    missing = [name for name, id_ in found.items() if id_ is None]
    if missing:
        raise DataError(
            f"{table} has no group for {len(missing)} of {len(names)} scored cases: {listed_names(missing)}. Its ids "
            f"are {listed_names(list(group))}; expected {expected}."
        )
    return {name: group[id_] for name, id_ in found.items() if id_ is not None}


def groups_by_pattern(names: Sequence[str], pattern: str) -> dict[str, str]:
    """The patient or sequence in every name.

    Args:
        names: Ids of the cases, which may begin with folders.
        pattern: Regular expression with one group, searched in the last part of each id; folders stand before what it
            finds, because names of different folders are of different data.

    Raises:
        ConfigError: The pattern cannot be used (`find_groups`).
        DataError: It finds nothing in a name.
    """
    parts = [unicodedata.normalize("NFC", name).rpartition("/") for name in names]
    found = find_groups(pattern, [last for *_, last in parts])
    missing = [name for name, group in zip(names, found, strict=True) if not group]
    if missing:
        raise DataError(
            f"--group-pattern '{pattern}' finds nothing in {len(missing)} of {len(names)} names: "
            f"{listed_names(missing)}. Correct it, so that every name has a patient or sequence."
        )
    return {
        name: f"{folder}/{group}" if folder else group
        for name, (folder, _, _), group in zip(names, parts, found, strict=True)
    }


def listed_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
