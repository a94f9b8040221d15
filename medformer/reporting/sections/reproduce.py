"""The commands that give these numbers again."""

from __future__ import annotations

import shlex

from medformer.reporting.blocks import Block, Code, Section, Text
from medformer.reporting.facts import Facts


def build(facts: Facts) -> Section:
    """List the recorded commands and those that rebuild this report or compare with it."""
    sessions = facts.record.get("sessions", [])
    commands = [shlex.join(str(word) for word in session.get("command", [])) for session in sessions]
    blocks: list[Block] = [
        Text(
            "The same command with the same data, config, seed and package versions gives the same folds; on a CPU it "
            "gives the same numbers bit for bit, on a GPU nearly so."
        ),
        Code("Commands of this run", "\n".join(dict.fromkeys(filter(None, commands))) or "(not recorded)"),
        Code(
            "Rebuild this report from oof.csv, without the model",
            f"medformer report {shlex.quote(facts.run.path.name)}",
        ),
    ]
    return Section("reproduce", "Reproduce", blocks)
