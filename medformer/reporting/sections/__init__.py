"""The sections of the report, one file each, in reading order.

A new section is a new file with a function `build(facts) -> Section | None` and a line in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from medformer.reporting.blocks import Section
from medformer.reporting.facts import Facts
from medformer.reporting.sections import (
    audit,
    distribution,
    folds,
    gallery,
    learning,
    limits,
    plan,
    reproduce,
    setup,
    strata,
    summary,
)

SECTIONS: tuple[Callable[[Facts], Section | None], ...] = (
    summary.build,
    folds.build,
    distribution.build,
    strata.build,
    gallery.build,
    learning.build,
    audit.build,
    plan.build,
    setup.build,
    reproduce.build,
    limits.build,
)
