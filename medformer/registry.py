"""Explicit tables of named parts, so that "what is there" is data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from medformer.errors import UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One row of a table.

    Attributes:
        name: What a config says.
        part: The class or function behind the name.
        description: One line for `medformer info`.
        paper: Where it comes from.
        sizes: What it does with input sizes; empty when any size works.
    """

    name: str
    part: T
    description: str
    paper: str = ""
    sizes: str = ""


class Registry(Mapping[str, Entry[T]]):
    """A read-only table; an unknown name raises `UnknownNameError` with the nearest known one."""

    def __init__(self, kind: str, entries: Sequence[Entry[T]]) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise ValueError(f"two entries of the {kind} table share a name")

    def __getitem__(self, name: str) -> Entry[T]:
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
