"""Who is in the cohort, who was left out and why, and how often each rule for imperfect data applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medformer.reporting.blocks import Block, Notice, Section, Table, Text, counted, number
from medformer.reporting.facts import Facts

TITLE = "The cohort"
SHOWN = 12


def build(facts: Facts) -> Section | None:
    """Tabulate exclusions, atlases, the policies that applied, and sites unknown to a fold's training part."""
    cohort = facts.cohort
    if cohort is None:
        return None
    blocks: list[Block] = [*_exclusions(facts, cohort)]
    atlases: Mapping[str, Mapping[str, Any]] = cohort.get("atlases") or {}
    if atlases:
        rows = [
            [
                name,
                *(str(known.get(key) or "–") for key in ("title", "content")),
                *(number(known.get(key)) for key in ("regions", "constant_regions")),
            ]
            for name, known in atlases.items()
        ]
        header = ["Atlas", "Name", "Kept as", "Regions", "Constant regions"]
        blocks.append(Table("Atlases", header, rows, text_columns=3))
    policies = [
        [str(entry["situation"]), str(entry["policy"]), number(entry.get("count")), str(entry.get("unit", ""))]
        for entry in cohort.get("policies") or ()
    ]
    if policies:
        header = ["What may be wrong", "What is done", "How often", "Counted in"]
        blocks.append(Table("Rules for imperfect data", header, policies, text_columns=2, sortable=False))
    blocks += _unseen(facts, cohort.get("unseen_sites") or {})
    blocks += _each(cohort)
    return Section("cohort", TITLE, blocks) if blocks else None


def _exclusions(facts: Facts, cohort: Mapping[str, Any]) -> list[Block]:
    excluded: Mapping[str, int] = cohort.get("excluded") or {}
    kept = cohort.get("kept")
    number_excluded = sum(excluded.values())
    whole = f"{counted(kept, facts.noun)} {'was' if kept == 1 else 'were'} kept" if isinstance(kept, int) else ""
    if not excluded:
        return [Text(f"{whole}; no one was left out.")] if whole else []
    begin = f"{whole} and {number_excluded:,}" if whole else counted(number_excluded, facts.noun)
    blocks: list[Block] = [
        Text(f"{begin} left out when the cohort was prepared. Who is left out changes whom the results are about.")
    ]
    rows = [[str(reason), f"{count:,}"] for reason, count in sorted(excluded.items(), key=lambda item: -item[1])]
    total = ["All", f"{number_excluded:,}"]
    blocks.append(Table("Left out, by reason", ["Reason", f"{facts.noun.capitalize()}s"], rows, total=total))
    return blocks


def _each(cohort: Mapping[str, Any]) -> list[Block]:
    """Those who were left out, one by one."""
    cases = cohort.get("exclusions") or ()
    if not cases:
        return []
    rows = [[str(case.get(key, "")) for key in ("id", "reason", "detail")] for case in cases[:SHOWN]]
    caption = "Everyone who was left out"
    if len(cases) > SHOWN:
        caption += f": the first {SHOWN} of {len(cases):,}; exclusions.csv beside the manifest has all"
    return [Table(caption, ["Case", "Reason", "Detail"], rows, text_columns=3)]


def _unseen(facts: Facts, unseen: Mapping[str, int]) -> list[Block]:
    """Sites of test subjects without a single training subject in the fold."""
    if not unseen:
        return []
    harmonized = facts.config.get("features", {}).get("harmonize", "none") != "none"
    policy = "without a correction of their own" if harmonized else "as those of the other sites are, uncorrected"
    names = ", ".join(f"{site} ({count:,})" for site, count in unseen.items())
    subjects = counted(sum(unseen.values()), facts.noun)
    return [
        Notice(
            "info",
            f"{subjects} came from sites that their fold was not trained on; they were scored {policy}: {names}.",
        )
    ]
