"""What tests of data share: the names of the files that are opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

_OPENED: list[str] = []
_HOOKED: list[bool] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _HOOKED and isinstance(arguments[0], (str, os.PathLike)):
        _OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(_note)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that is opened, by its whole path; an audit hook cannot be removed, so it is switched."""
    _OPENED.clear()
    _HOOKED.append(True)
    yield _OPENED
    _HOOKED.clear()
