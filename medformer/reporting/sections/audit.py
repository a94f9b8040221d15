"""The leakage and data audit, with what the user accepted in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medformer.reporting.blocks import Block, Listing, Notice, Section, Table, Text, Verdict, counted
from medformer.reporting.facts import Facts, accepted_findings

TITLE = "Leakage audit"
SHOWN = 40


def build(facts: Facts) -> Section:
    """Show accepted leaks first, then what else was found, then what was looked for."""
    blocks: list[Block] = []
    accepted = [str(name) for name in facts.record.get("accepted_leaks", ())]
    if accepted:
        blocks.append(Notice("warning", f"The user accepted these leaks by name: {', '.join(accepted)}."))
    if facts.audit is None:
        blocks.append(Notice("warning", "No audit was written for this run: leakage cannot be ruled out."))
        return Section("audit", TITLE, blocks)
    findings = facts.audit.get("findings", [])
    covered = accepted_findings(facts.audit)
    others = [finding for finding in findings if finding not in covered]
    if covered:
        blocks.append(_table("Accepted: on both sides of a split, and used all the same", covered))
    if others:
        blocks.append(Notice("warning", f"{counted(len(others), 'finding')} that nobody accepted."))
        blocks.append(_table("On both sides of a split", others))
    if not findings:
        blocks.append(Notice("ok", "No leakage found: nothing below is on both sides of a split."))
    unused = facts.audit.get("accepted_but_not_found", [])
    if unused:
        blocks.append(Text(f"Accepted but not found: {', '.join(map(str, unused))}."))
    looked_for = facts.audit.get("looked_for", {})
    if looked_for:
        blocks.append(Text(f"Looked at {counted(facts.audit.get('cases', len(facts.rows)), 'case')} for:"))
        blocks.append(Listing([f"{kind}: {meaning}" for kind, meaning in looked_for.items()]))
    problems = facts.audit.get("problems", [])
    if problems:
        rows = [
            [str(problem.get(key, "")) for key in ("id", "severity", "reason", "detail")]
            for problem in problems[:SHOWN]
        ]
        blocks.append(
            Table(_title("Data problems", problems), ["Case", "Severity", "Reason", "Detail"], rows, text_columns=4)
        )
    return Section("audit", TITLE, blocks)


def verdict(facts: Facts) -> Verdict:
    """Say whether anything was found on both sides of a split."""
    accepted = [str(name) for name in facts.record.get("accepted_leaks", ())]
    findings = (facts.audit or {}).get("findings", [])
    if accepted:
        found = counted(len(accepted_findings(facts.audit)), "finding")
        text = f"the user accepted leaks between training and test data ({', '.join(accepted)}: {found})."
        return Verdict("warning", TITLE, f"{text} The numbers may be too good.", "audit")
    if facts.audit is None:
        return Verdict("warning", TITLE, "no audit was written; leakage cannot be ruled out.", "audit")
    if findings:
        text = f"{counted(len(findings), 'finding')} on both sides of a split. The numbers may be too good."
        return Verdict("warning", TITLE, text, "audit")
    kinds = ", ".join(facts.audit.get("looked_for", {}))
    looked_for = f" (looked for: {kinds})" if kinds else ""
    return Verdict("ok", TITLE, f"nothing was found on both sides of a split{looked_for}.", "audit")


def _table(title: str, findings: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            str(finding.get("kind", "")),
            _side(finding, "a", 0),
            _side(finding, "b", 1),
            str(finding.get("detail", "")),
        ]
        for finding in findings[:SHOWN]
    ]
    return Table(_title(title, findings), ["Kind", "One side", "Other side", "Detail"], rows, text_columns=4)


def _side(finding: Mapping[str, Any], key: str, position: int) -> str:
    files = finding.get("files", [])
    file = f": {files[position]}" if len(files) > position else ""
    return f"{finding.get(key, '')} ({finding.get(f'part_{key}', '')}){file}"


def _title(title: str, items: Sequence[Any]) -> str:
    return title if len(items) <= SHOWN else f"{title}: the first {SHOWN} of {len(items)}; audit.json has all"
