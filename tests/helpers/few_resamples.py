"""Intervals from a tenth of the resamples, for tests that look at no interval: drawing them is most of a summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medformer.evaluation.statistics.resampling import DEFAULT


@contextmanager
def few_resamples() -> Iterator[None]:
    """Draw 200 resamples for every interval inside the block."""
    usual = DEFAULT.resamples
    # The one setting of every interval, which nobody else changes.
    object.__setattr__(DEFAULT, "resamples", 200)
    try:
        yield
    finally:
        object.__setattr__(DEFAULT, "resamples", usual)
