"""What was run and how good it is on one screen, and how to run it again."""

from __future__ import annotations

import shlex
from typing import Any

from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.scores import FAILED_BELOW, failures, value, written

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


def reproduce(run: FinishedRun) -> dict[str, Any]:
    """Quote the recorded commands, and the one that builds the report again."""
    recorded = [shlex.join(map(str, session.get("command", []))) for session in run.record.get("sessions", [])]
    return {
        "commands": "\n".join(dict.fromkeys(filter(None, recorded))),
        "rebuild": f"medformer report {shlex.quote(run.folder.path.name)}",
    }
