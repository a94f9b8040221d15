"""Reports without drawings, for tests that read their words: to render figures takes longer than all the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def undrawn() -> Iterator[None]:
    """Compose every figure inside the block, and leave an empty drawing in its place."""
    with patch("medformer.reporting.figures.style._to_svg", lambda figure, key: '<svg viewBox="0 0 1 1"></svg>'):
        yield
