"""Methods, tables of results and the checklist of a run, as Markdown that an author can paste and complete."""

from __future__ import annotations

from pathlib import Path

from medformer.files import write_text
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.paper.checklist import checklist_facts
from medformer.reporting.paper.statements import statements_of
from medformer.reporting.read_run import read_finished_run
from medformer.reporting.sections import facts_of
from medformer.reporting.sections.results import results
from medformer.reporting.sections.segmentation import labels
from medformer.reporting.wording import markdown_templates, render

_LABELS = {
    "label": "Label",
    "present": "Volumes with it",
    "dice": "Mean Dice",
    "interval": "95% interval",
    "median_dice": "Median Dice",
    "hd95": "Median HD95 (mm)",
    "nsd": "Mean NSD",
}
_BASELINES = {
    "method": "Method",
    "value": "Value",
    "interval": "95% interval",
    "lead": "Lead of the model",
    "lead_interval": "95% interval of the lead",
    "p_holm": "p (Holm)",
    "fold_p_holm": "p over folds (Holm)",
}


def write_methods(run_dir: Path) -> Path:
    """Write methods.md from the run's files alone.

    Args:
        run_dir: A run folder with oof.csv and metrics.json.

    Returns:
        The path of the file.

    Raises:
        ConfigError: Not a run folder.
        DataError: Missing or damaged files.
    """
    run = read_finished_run(run_dir)
    write_text(run.folder.methods_md, methods_text(run))
    return run.folder.methods_md


def methods_text(run: FinishedRun) -> str:
    """Return methods, results and checklist as Markdown; what the run does not know stands in brackets."""
    facts, templates = facts_of(run, for_card=True), markdown_templates()
    whole, said = results(run), statements_of(run, facts, templates)
    return render(
        templates,
        "methods.md.j2",
        facts["summary"],
        run=run,
        said=said,
        **checklist_facts(run, said),
        pooled=whole["pooled"],
        meanings=whole["meanings"],
        labels=labels(run)["rows"] if run.labels else [],
        baselines=facts["baselines"]["rows"] if "baselines" in facts else [],
        label_columns={title: key for key, title in _LABELS.items()},
        baseline_columns={title: key for key, title in _BASELINES.items()},
    )
