"""The sections of the report, one file each, in reading order.

A new section is a new file with a function `build(facts) -> Section | None` and a line in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from medformer.reporting.blocks import Section
from medformer.reporting.facts import Facts
from medformer.reporting.sections import (
    attribution,
    audit,
    baselines,
    canary,
    cohort,
    data,
    distribution,
    folds,
    gallery,
    learning,
    lesions,
    limits,
    plan,
    pretraining,
    ranking,
    reproduce,
    setup,
    site_probe,
    subgroups,
    summary,
)

SECTIONS: tuple[Callable[[Facts], Section | None], ...] = (
    summary.build,
    data.build,
    cohort.build,
    audit.build,
    plan.build,
    pretraining.build,
    learning.build,
    folds.build,
    ranking.build,
    distribution.build,
    lesions.build,
    subgroups.build,
    baselines.build,
    canary.build,
    site_probe.build,
    attribution.build,
    gallery.build,
    setup.build,
    reproduce.build,
    limits.build,
)
