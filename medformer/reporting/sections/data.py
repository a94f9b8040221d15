"""Who the cases are: the table that every clinical paper starts with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medformer.reporting.blocks import Section, Table, Text, counted
from medformer.reporting.facts import Facts

Rows = Sequence[Mapping[str, Any]]
MOST_SITES = 40
MOST_SEXES = 4
_GROUPS = {"subject": "a person, with all of their scans", "volume": "a patient, with all of their scans"}


def build(facts: Facts) -> Section:
    """Count cases, groups and what else is known, per site and in all."""
    rows = facts.first_rows
    noun = facts.noun
    columns: dict[str, Callable[[Rows], str]] = {
        f"{noun.capitalize()}s": lambda part: f"{len(part):,}",
        "Groups": lambda part: f"{len({row.get('group') or row['id'] for row in part}):,}",
    }
    if facts.classification:
        columns["Positive"] = lambda part: _share(sum(row["label"] == 1 for row in part), len(part))
    elif all("truth_px" in row for row in rows):
        columns[f"With a {facts.target}"] = lambda part: _share(sum(row["truth_px"] != 0 for row in part), len(part))
        if all(isinstance(row.get("truth_fraction"), (int, float)) for row in rows):
            columns[f"Median lesion (% of the {noun})"] = _median_lesion
    if any(_is_number(row.get("age")) for row in rows):
        columns["Age: median (range)"] = _ages
    sexes = Counter(str(row.get("sex")) for row in rows if row.get("sex") not in (None, ""))
    if 0 < len(sexes) <= MOST_SEXES:
        for sex in sorted(sexes):
            columns[f"Sex: {sex}"] = lambda part, sex=sex: _share(  # type: ignore[misc]
                sum(str(row.get("sex")) == sex for row in part), len(part)
            )
    header = ["Site", *columns]
    total = ["All", *(cell(rows) for cell in columns.values())]
    sites = facts.sites if len(facts.sites) > 1 else []
    body = [
        [site, *(cell([row for row in rows if str(row.get("site")) == site]) for cell in columns.values())]
        for site in sites[:MOST_SITES]
    ]
    caption = f"The {noun}s that were tested" + (
        f": {MOST_SITES} of {counted(len(sites), 'site')}" if len(sites) > MOST_SITES else ""
    )
    table = Table(caption, header, body, total=total) if body else Table(caption, header, [total], sortable=False)
    whole = _GROUPS.get(facts.noun, "a patient, or a sequence of frames")
    text = f"A group is what stays on one side of every split: {whole}."
    if len(facts.sites) == 1:
        text += f" All are from one site: {facts.sites[0]}."
    elif not facts.sites:
        text += " The site is not known."
    return Section("data", "The data", [Text(text), table])


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({100 * count / whole:.0f}%)" if whole else "–"


def _median_lesion(part: Rows) -> str:
    fractions = [float(row["truth_fraction"]) for row in part if row["truth_fraction"] > 0]
    return f"{100 * float(np.median(fractions)):.1f}" if fractions else "–"


def _ages(part: Rows) -> str:
    ages = [float(row["age"]) for row in part if _is_number(row.get("age"))]
    return f"{np.median(ages):.0f} ({min(ages):.0f} to {max(ages):.0f})" if ages else "–"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
