"""Auditing somebody else's split of data of any task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medformer.crossval.splits.audit import SplitAudit, audit_split
from medformer.crossval.splits.read import own_split, read_split
from medformer.progress import Reporter, SilentReporter
from medformer.tasks.opening import open_data


def audit_data(
    data: Path,
    splits: Sequence[Path] = (),
    *,
    task: str | None = None,
    group_pattern: str | None = None,
    accept: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> SplitAudit:
    """Look for leaks in a split that somebody made, and describe its balance; nothing is trained.

    Args:
        data: A manifest, a cohort, or a folder (`medformer.tasks.opening.open_data`).
        splits: The split, in a form of `medformer.crossval.splits.read.read_split`; that of the data without any.
        task: Of the data; found out unless given.
        group_pattern: Regular expression with one group, which finds the patient in the names of a folder's files.
        accept: Names of findings that are accepted.
        reporter: Receives the progress.

    Raises:
        ConfigError: Data or split are of no known kind, or a name to be accepted is none.
        DataError: They cannot be read, or do not belong together.
    """
    reporter = reporter or SilentReporter()
    given = read_split([Path(path) for path in splits]) if splits else None
    opened = open_data(Path(data), reporter, task=task, group_pattern=group_pattern)
    return audit_split(
        opened.study,
        given or own_split(opened.study.cases, Path(data)),
        reporter,
        data=str(data),
        labelled=opened.labelled,
        accept=accept,
        notes=opened.notes,
    )
