"""The sections of the report, one file each, in reading order.

A new section is a new file with a function `build(facts) -> Section | None` and a line in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

from medformer.reporting.blocks import Section
from medformer.reporting.facts import Facts
from medformer.reporting.sections import (
    agreement,
    attribution,
    audit,
    baselines,
    canary,
    cohort,
    data,
    distribution,
    folds,
    gallery,
    labels,
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
    volume_plan,
)

SECTIONS: tuple[Callable[[Facts], Section | None], ...] = (
    summary.build,
    data.build,
    cohort.build,
    audit.build,
    plan.build,
    volume_plan.build,
    pretraining.build,
    learning.build,
    folds.build,
    ranking.build,
    labels.build,
    agreement.build,
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
