"""Explicit tables of named parts, so that "what is there" is data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from medformer.errors import ConfigError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One row of a table.

    Attributes:
        name: What a config says; `smp:<architecture>/<encoder>` stands for every name that starts with `smp:`.
        part: The class or function behind the name.
        description: One line for `medformer info`.
        paper: Where it comes from.
        sizes: What it does with input sizes; empty when any size works.
        cannot: What the part does not support, such as `3-D` or `model.mixers`, each with the reason in a sentence. A
            config that asks for it is refused with that sentence, and the contract tests leave it out.
        cost: How time and memory grow: N positions, C channels, k positions of a kernel (N and C where nothing else).
        example: A name that the row stands for, where its own is a pattern; the contract tests build it.
    """

    name: str
    part: T
    description: str
    paper: str = ""
    sizes: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)
    example: str = ""
    cost: str = ""


class Registry(Mapping[str, Entry[T]]):
    """A read-only table; an unknown name raises `UnknownNameError` with the nearest known one."""

    def __init__(self, kind: str, entries: Sequence[Entry[T]]) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise ValueError(f"two entries of the {kind} table share a name")

    def __getitem__(self, name: str) -> Entry[T]:
        found = self._find(name)
        if found is None:
            raise UnknownNameError(self.kind, name, self._entries)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def require(self, name: str, *abilities: str) -> Entry[T]:
        """Return the row of a name.

        Raises:
            UnknownNameError: No row has that name.
            ConfigError: The part does not support one of the abilities; the row's reason is given.
        """
        entry = self[name]
        for ability in abilities:
            if ability in entry.cannot:
                raise ConfigError(f"The {self.kind} {name} does not support {ability}: {entry.cannot[ability]}")
        return entry

    def examples(self) -> list[str]:
        """Return one name of every row that can be built: its own, or the example of a pattern."""
        return [entry.example or entry.name for entry in self._entries.values()]

    def _find(self, name: str) -> Entry[T] | None:
        patterns = (entry for key, entry in self._entries.items() if "<" in key and name.startswith(key.split("<")[0]))
        return self._entries.get(name) or next(patterns, None)
