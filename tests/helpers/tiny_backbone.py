"""Backbones of one narrow block in each stage, for tests of what surrounds them: `model.backbone=tiny` in a config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from medformer.models.backbone.variants import VARIANTS
from medformer.registry import Entry

_SIZE = {"depths": (1, 1, 1, 1), "channels": (32, 32, 32, 32)}
_NAMES = {"tiny": "convformer_v8", "tiny_classes": "convformer_c8"}


@contextmanager
def tiny_backbones() -> Iterator[None]:
    """Have `tiny` (as convformer_v8) and `tiny_classes` (as convformer_c8) in the table inside the block."""
    entries = {name: Entry(name, replace(VARIANTS[large].part, **_SIZE), "for tests") for name, large in _NAMES.items()}
    with patch.dict(VARIANTS._entries, entries):
        yield
