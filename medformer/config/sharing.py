"""A config as it may be passed on: without what names data, machines or people."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from medformer.config.shared import LOCAL
from medformer.config_problems import is_text

C = TypeVar("C", bound=BaseModel)

_PLACES = ("data", "pretraining", "execution")
"""Sections that say where cases and machines are: their free text is paths, addresses, and patterns of file names."""


def without_places(config: C) -> C:
    """Return a config in which keys that name files, folders, machines, or patterns of file names have their defaults.

    Names that a table of ours lists, such as that of a network, stay, and so do all numbers.
    """
    return _reset(config, free_text=False)


def _reset(section: C, *, free_text: bool) -> C:
    changed = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            changed[name] = _reset(value, free_text=free_text or name in _PLACES)
        elif LOCAL in field.metadata or (free_text and is_text(field)):
            changed[name] = field.get_default()
    return section.model_copy(update=changed)
