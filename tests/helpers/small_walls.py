"""Synthetic colons on coarse maps: pictures of some fifty rows show no more, and the maps are most of the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from medformer.data.synthetic import wall
from medformer.data.synthetic.patient import draw_patient


@contextmanager
def small_walls() -> Iterator[None]:
    """A sixteenth of the positions on the walls of all patients that are drawn inside the block."""
    draw_patient.cache_clear()
    try:
        with (
            patch.object(wall, "_GEOMETRY", (280, 128)),
            patch.object(wall, "_COLOR", (448, 256)),
            patch.object(wall, "_TUBE_MARGIN", 64),
        ):
            yield
    finally:
        draw_patient.cache_clear()
