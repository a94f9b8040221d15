"""Where the folds of a run stand, read from its files while it runs or after, without touching anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.journal import FoldState
from medformer.crossval.run.lock import Owner, read_owner
from medformer.errors import DataError
from medformer.evaluation.metrics import validation_metric_of
from medformer.files import read_csv
from medformer.progress import age, duration
from medformer.records import Content, read_record

T = TypeVar("T")


class _Folds(Content):
    folds: list[Any]


FoldStanding = Literal["pending", "running", "stopped", "done", "failed", "unreadable"]

STOPPED = "the process is gone; --resume continues it"
WAITING = "its process is gone; this session will continue it"


@dataclass(frozen=True)
class FoldStatus:
    """One fold.

    Attributes:
        index: Which.
        state: As in the journal, except `stopped`: it says `running`, and its process is gone.
        reason: Why it failed, stopped or is pending again.
        attempts: How often it was started.
        started: When the last attempt began, ISO form, UTC; empty before the first.
        ended: When it ended; empty while it runs.
        where: Host and process of the last attempt.
        epoch: Epochs trained, as the learning curve has them; None without one.
        validation: Validation score of the last of them; None when it was not measured.
        measure: What that score is, such as `Dice`.
    """

    index: int
    state: FoldStanding = "pending"
    reason: str = ""
    attempts: int = 0
    started: str = ""
    ended: str = ""
    where: str = ""
    epoch: int | None = None
    validation: float | None = None
    measure: str = ""


@dataclass(frozen=True)
class PartStatus:
    """The folds of the model, of a baseline or of the canary; `name` is empty for the model."""

    name: str
    folds: tuple[FoldStatus, ...]


@dataclass(frozen=True)
class Status:
    """A run.

    Attributes:
        path: Its folder.
        task: Which task; empty before the run has said so.
        state: `running`, `stopped`, `done`, `failed`, `interrupted`; `starting` before it has said so.
        reason: Why it ended.
        started: When its last session began, ISO form, UTC.
        owner: Who writes in the folder; None when nobody does.
        parts: The model's folds first.
    """

    path: Path
    task: str
    state: str
    reason: str
    started: str
    owner: Owner | None
    parts: tuple[PartStatus, ...]

    @property
    def live(self) -> bool:
        """Whether somebody works on it now."""
        return self.owner is not None and self.owner.alive


def read_status(path: Path) -> Status:
    """Read where a run stands; it may be running, and files may change or be missing meanwhile.

    Raises:
        ConfigError: The folder is not there, or is not a run's.
        DataError: Nobody works on it, and its run.json is damaged.
    """
    run = RunDirectory(path)
    owner = read_owner(run.lock)
    live = owner is not None and owner.alive
    if not live:
        run = RunDirectory.open(path)
    record = (_patiently(run.record) or {}) if live else run.record()
    session: dict[str, Any] = (record.get("sessions") or [{}])[-1]
    state, reason = str(record.get("state") or "starting"), str(record.get("reason", ""))
    if state == "running" and not live:
        state, reason = "stopped", STOPPED
    if owner is not None and live and owner.since > str(session.get("started", "")):
        # It still checks the data; what stands here is an earlier run, which it may be about to replace.
        state, reason = "starting", ""
    plan = _patiently(lambda: read_record(run.splits_json, _Folds, "Restore it from a copy."))
    count = len(plan.folds) if plan else 0
    names = sorted(entry.parent.name for entry in run.path.glob("baselines/*/folds"))
    since = str(session.get("started", "")) if live else None
    parts = [PartStatus("", _folds(run, count, since))]
    parts += [PartStatus(f"baseline {name}", _folds(run.baseline(name), count, since)) for name in names]
    if run.canary.folds.is_dir():
        parts.append(PartStatus("permuted labels", _folds(run.canary, count, since)))
    return Status(
        path=run.path,
        task=str(record.get("task", "")),
        state=state,
        reason=reason,
        started=str(session.get("started", "")),
        owner=owner,
        parts=tuple(parts),
    )


def format_status(status: Status, now: datetime | None = None) -> str:
    """Say it in lines: the run, who holds it, and one line per fold."""
    lines = [f"{status.path}: {status.task or 'run'}, {status.state}{_because(status.reason)}"]
    if status.owner is not None and status.owner.alive:
        silent = status.owner.silent
        seen = f"; last sign of life {duration(silent)} ago" if silent is not None else ""
        lines.append(f"Held by {status.owner}{seen}")
    for part in status.parts:
        done = sum(fold.state == "done" for fold in part.folds)
        lines += ["", f"{part.name.capitalize() or 'Model'}: {done} of {len(part.folds)} folds done"]
        if not part.folds:
            lines.append("  The plan is not drawn yet.")
        lines += [_fold_line(fold, now) for fold in part.folds]
    return "\n".join(lines)


def _folds(run: RunDirectory, count: int, since: str | None) -> tuple[FoldStatus, ...]:
    """Read each fold; `since` is when the session that works on them began, None when there is none."""
    found = {int(entry.name) for entry in run.folds.glob("*") if entry.name.isdecimal()}
    return tuple(_fold(run.fold(index), index, since) for index in sorted({*range(count), *found}))


def _fold(folder: Path, index: int, since: str | None) -> FoldStatus:
    if not (folder / "fold.json").exists():
        return FoldStatus(index)
    content = _patiently(lambda: read_record(folder / "fold.json", FoldState, f"Delete {folder} to run it again."))
    if content is None:
        return FoldStatus(index, "unreadable", f"{folder / 'fold.json'} is not a fold state; delete {folder}")
    state: FoldStanding = content.state
    reason, started = content.reason, content.started
    if state == "running" and (since is None or started < since):
        state, reason = "stopped", STOPPED if since is None else WAITING
    epoch, validation, measure = _last_epoch(folder / "history.csv")
    return FoldStatus(
        index=index,
        state=state,
        reason=reason,
        attempts=content.attempts,
        started=started,
        ended=content.ended,
        where=f"process {content.pid} on {content.host}" if content.host and content.pid else "",
        epoch=epoch,
        validation=validation,
        measure=measure,
    )


def _last_epoch(path: Path) -> tuple[int | None, float | None, str]:
    """Number and validation score of the last row of a learning curve, and what that score is."""
    if not path.exists():
        return None, None, ""

    def read() -> tuple[int | None, float | None, str]:
        row = read_csv(path)[-1]
        measure = validation_metric_of(row)
        if measure is None or not row[measure.validation_column]:
            return int(row["epoch"]), None, ""
        return int(row["epoch"]), float(row[measure.validation_column]), measure.label

    return _patiently(read) or (None, None, "")


def _fold_line(fold: FoldStatus, now: datetime | None) -> str:
    words: list[str] = [fold.state]
    if fold.state == "running" and (spent := age(fold.started, now)) is not None:
        words.append(f"for {duration(spent)}")
    elif fold.state == "done" and (spent := _between(fold.started, fold.ended)) is not None:
        words.append(f"in {duration(spent)}")
    line = f"  {fold.index:>3}  {' '.join(words)}"
    if fold.epoch is not None and fold.state != "done":
        line += f", after epoch {fold.epoch}"
        line += f" with validation {fold.measure} {fold.validation:.4f}" if fold.validation is not None else ""
    if fold.state == "running" and fold.where:
        line += f", {fold.where}"
    if fold.attempts > 1:
        line += f", attempt {fold.attempts}"
    return line + _because(fold.reason)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _between(started: str, ended: str) -> float | None:
    try:
        return age(started, datetime.fromisoformat(ended))
    except ValueError:
        return None


def _patiently(read: Callable[[], T], attempts: int = 3) -> T | None:
    """Read a file that may be replaced meanwhile, which a network file system may show; None if it stays bad."""
    for attempt in range(attempts):
        try:
            return read()
        except (OSError, ValueError, TypeError, KeyError, IndexError, DataError):
            if attempt + 1 < attempts:
                time.sleep(0.05)
    return None
