"""Could the model have read the hospital instead of the disease?"""

from __future__ import annotations

from medformer.reporting.blocks import Block, Notice, Section, Table, Text, Verdict, interval, number
from medformer.reporting.facts import Facts

TITLE = "Site probe"
DETAILS = {"classifier": "Classifier", "split": "Folds"}


def build(facts: Facts) -> Section | None:
    """Say how well the site can be predicted from what the model uses."""
    probe = facts.site_probe
    found = verdict(facts)
    if probe is None or found is None:
        return None
    blocks: list[Block] = [
        Text(
            "A simple classifier was asked to name the site of each held-out case from "
            f"{probe.get('features') or 'what the model is given'}. If it can, then wherever patients differ between "
            "sites, a model can score by telling sites apart instead of the disease; the numbers per site and for "
            "left-out sites matter then more than the pooled ones."
        ),
        Notice(found.level, str(probe.get("text") or found.text[0].upper() + found.text[1:])),
    ]
    if number(probe.get("balanced_accuracy")) != "–":
        rows = [
            [str(name), number(part.get("n")), number(part.get("recall"))]
            for name, part in (probe.get("by_site") or {}).items()
        ]
        total = ["Balanced accuracy (mean over sites)", number(probe.get("n")), number(probe["balanced_accuracy"])]
        caption = (
            f"Share of cases whose site is named rightly; 95% interval of the mean {interval(probe)}, chance "
            f"{number(probe.get('chance'))}"
        )
        header = ["Site", "Cases", "Named rightly"]
        blocks.append(Table(caption, header, rows or [total], total=total if rows else ()))
        details = [f"{name}: {probe[key]}." for key, name in DETAILS.items() if probe.get(key)]
        blocks += [Text(" ".join(details))] if details else []
    return Section("site-probe", TITLE, blocks)


def verdict(facts: Facts) -> Verdict | None:
    """Say whether the site can be told."""
    probe = facts.site_probe
    if probe is None:
        return None
    score, chance, low = (probe.get(key) for key in ("balanced_accuracy", "chance", "low"))
    if score is None or chance is None:
        return Verdict("info", TITLE, "the site could not be probed.", "site-probe")
    numbers = f"balanced accuracy {number(score)}, 95% interval {interval(probe)}, chance {number(chance)}"
    if low is None:
        return Verdict("info", TITLE, f"too few groups for a verdict ({numbers}).", "site-probe")
    if low > chance:
        return Verdict(
            "warning", TITLE, f"the site can be read from what the model is given ({numbers}).", "site-probe"
        )
    return Verdict("ok", TITLE, f"the site cannot be read better than by chance ({numbers}).", "site-probe")
