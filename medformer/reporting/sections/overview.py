"""What was run and how good it is on one screen, and how to run it again."""

from __future__ import annotations

import shlex
from typing import Any

from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import FAILED_BELOW, failures, value, written
from medformer.reporting.wording import MISSING

FEW_GROUPS = 10
_HEADLINES = ("auc", "balanced_accuracy", "sensitivity", "specificity")


def summary(run: FinishedRun) -> dict[str, Any]:
    """Collect the headline numbers, and what a reader must know before trusting them."""
    model = run.config.get("model", {})
    name = str(model.get("name") or "A model")
    # The name of a reference network contains its encoder; our backbone key is not used then.
    backbone = "" if ":" in name else model.get("backbone") or ""
    return {
        "model": name,
        "backbone": backbone,
        "auc": value(run.pooled, "auc"),
        "mean_iou": value(run.pooled, "iou"),
        "headlines": [
            {"label": run.metric_table[name].title, **written(run, run.pooled, name)}
            for name in (_HEADLINES if run.classification else ())
        ],
        "failed": 0 if run.classification else sum(map(len, failures(run.first_rows).values())),
        "failed_below": FAILED_BELOW,
        "few_groups": FEW_GROUPS,
    }


def setup(run: FinishedRun) -> dict[str, Any]:
    """List the task, data, device, versions and digests that are recorded."""
    record, session = run.record, run.session
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
        "Plan SHA-256": run.plan.digest() if run.plan else None,
        "Table SHA-256": run.metrics.get("source", {}).get("sha256"),
    }
    known = {name: entry for name, entry in entries.items() if entry not in (None, "")}
    return {"record": _pairs(known), "versions": _pairs(session.get("versions", {}))}


def commands(run: FinishedRun) -> dict[str, Any]:
    """Quote the recorded commands, and the one that builds the report again."""
    recorded = [shlex.join(map(str, session.get("command", []))) for session in run.record.get("sessions", [])]
    return {
        "commands": "\n".join(dict.fromkeys(filter(None, recorded))),
        "rebuild": f"medformer report {shlex.quote(run.folder.path.name)}",
    }


def _pairs(entries: dict[str, Any]) -> list[dict[str, str]]:
    return [{"name": str(name), "value": str(entry) or MISSING} for name, entry in entries.items()]
