"""The audit of somebody else's split as files: data, two tables, and a page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import medformer
from medformer.crossval.splits.audit import SplitAudit
from medformer.data.audit import KINDS
from medformer.files import write_csv, write_json, write_text
from medformer.reporting.page import Heading, render_page
from medformer.reporting.sections.checks import audited
from medformer.reporting.sections.plans import balanced
from medformer.reporting.wording import html_templates, render

_FINDINGS = ("kind", "name", "a", "b", "part_a", "part_b", "score", "detail", "accepted")


def write_split_audit(out: Path, found: SplitAudit) -> list[Path]:
    """Write audit.json, findings.csv, balance.csv and audit.html.

    Returns:
        The files written.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    data, findings, balance, page = (out / name for name in ("audit.json", "findings.csv", "balance.csv", "audit.html"))
    content = found.to_json()
    write_json(data, content)
    rows = [{name: row.get(name, "") for name in _FINDINGS} for row in content["audit"]["findings"]]
    write_csv(findings, rows, _FINDINGS)
    write_csv(balance, found.balance_rows(), list(found.balance.header))
    write_text(page, render_split_audit(found))
    return [data, findings, balance, page]


def render_split_audit(found: SplitAudit) -> str:
    """Return the page."""
    templates = html_templates()
    count = Counter(finding.kind for finding in found.audit.findings)
    summary = {
        "found": found,
        "kinds": [{"what": KINDS[kind], "count": count[kind]} for kind in found.audit.kinds],
        "unreadable": [problem.to_json() for problem in found.unreadable],
    }
    leaks = audited(found.audit.to_json(), found.audit.accepted, found.cases)
    sections = {
        Heading("summary", "Summary"): render(templates, "split_audit/summary.html.j2", summary),
        Heading("audit", "What is on both sides"): render(templates, "sections/audit.html.j2", leaks),
        Heading("balance", "Balance"): render(templates, "split_audit/balance.html.j2", balanced(found.balance)),
    }
    title = f"Audit of the split {found.split.split.title}"
    return render_page(title, sections, version=medformer.__version__, when=Path(found.data).name)
