"""A config as it may be passed on: without what names data, machines or people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from medformer.config.shared import COLUMNS, LOCAL
from medformer.config_problems import is_text

C = TypeVar("C", bound=BaseModel)

LOCAL_FILE = "local.safetensors"
"""Stands for a file of weights whose name is left out: some networks are built otherwise where there was one."""

_PLACES = ("data", "pretraining", "execution")
"""Sections that say where cases and machines are: their free text is paths, addresses, and patterns of file names."""

_OWN_COLUMNS = frozenset({"site", "label", "size", "age", "sex", "mean_fd"})
"""Columns that medformer knows; the names of others are the user's."""


def without_places(config: C, is_name: Callable[[str], object]) -> C:
    """Return a config in which keys that name files, folders, machines, or patterns of file names have their defaults.

    Names that a table lists, such as that of a network, stay, and so do all numbers. Names of columns that only the
    user's manifest has are left out. A file that decides how a network is built becomes `LOCAL_FILE`.

    Args:
        config: Of any task, or a section of one.
        is_name: Whether a key that takes a file or a name, such as `model.weights`, holds a name that may stay.
    """
    return _reset(config, is_name, free_text=False)


def _reset(section: C, is_name: Callable[[str], object], *, free_text: bool) -> C:
    changed: dict[str, object] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            changed[name] = _reset(value, is_name, free_text=free_text or name in _PLACES)
        elif COLUMNS in field.metadata:
            changed[name] = tuple(column for column in value if column in _OWN_COLUMNS)
        elif value and (LOCAL in field.metadata or (free_text and is_text(field))) and not is_name(value):
            # Keys that are null without a file, such as `model.weights`, decide how a network is built.
            decides = LOCAL in field.metadata and field.get_default() is None
            changed[name] = LOCAL_FILE if decides else field.get_default()
    return section.model_copy(update=changed)
