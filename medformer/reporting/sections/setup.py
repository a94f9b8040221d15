"""What was run and on what."""

from __future__ import annotations

from medformer.reporting.blocks import Block, Code, Section, Table
from medformer.reporting.facts import Facts


def build(facts: Facts) -> Section:
    """List the task, data, device, versions and the config."""
    record, session = facts.record, facts.session
    sessions = record.get("sessions", [])
    entries = {
        "Task": record.get("task"),
        "State": " ".join(filter(None, [record.get("state"), record.get("reason")])),
        "Started": sessions[0].get("started") if sessions else None,
        "Finished": session.get("finished"),
        "Sessions": len(sessions),
        "Seed": record.get("seed"),
        "Device": session.get("device"),
        "Platform": session.get("platform"),
        "Processors": session.get("cpus"),
        "Threads per fold": session.get("threads"),
        "Manifest": record.get("manifest"),
        "Data SHA-256": record.get("data_sha256"),
        "Config SHA-256": record.get("config_sha256"),
        "Plan SHA-256": facts.plan.digest() if facts.plan else None,
        "Table SHA-256": facts.metrics.get("source", {}).get("sha256"),
    }
    rows = [[name, str(value)] for name, value in entries.items() if value not in (None, "")]
    blocks: list[Block] = [Table("The run", ["What", "Value"], rows, text_columns=2, sortable=False)]
    versions = session.get("versions", {})
    if versions:
        rows = [[str(name), str(value)] for name, value in versions.items()]
        blocks.append(Table("Software", ["Package", "Version"], rows, text_columns=2, sortable=False))
    if facts.config_text:
        blocks.append(Code("The resolved config (config.yaml)", facts.config_text, folded=True))
    return Section("setup", "What was run, on what", blocks)
