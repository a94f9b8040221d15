"""The state of each fold on disk, and what a finished fold must have left."""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from medformer.crossval.plan import Fold, some
from medformer.errors import DataError
from medformer.files import read_csv, sha256, write_json
from medformer.progress import now
from medformer.records import read_record

_NOT_LEARNED = frozenset({"fold.json", "state.safetensors"})
"""Files of a fold's folder that nothing is predicted from."""

JournalState = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class FoldState:
    """One fold's line in the journal (folds/<k>/fold.json).

    Attributes:
        index: Which fold.
        plan: Digest of the plan that the fold belongs to.
        state: Where it stands; `running` without a live run means that the process was killed.
        reason: Why it failed or was interrupted.
        attempts: How often it was started.
        predictions: SHA-256 of predictions.csv once done.
        learned: The files that predictions follow from, once done; empty in runs of an earlier version.
        started: When the last attempt began, UTC.
        ended: When the last attempt ended, UTC.
        host: Where the last attempt runs or ran.
        pid: In which process there.
    """

    index: int
    plan: str
    state: JournalState = "pending"
    reason: str = ""
    attempts: int = 0
    predictions: str = ""
    learned: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    host: str = ""
    pid: int = 0

    def begin(self) -> FoldState:
        """The state when an attempt begins."""
        return replace(
            self,
            state="running",
            reason="",
            attempts=self.attempts + 1,
            started=now(),
            ended="",
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def end(self, state: JournalState, reason: str = "") -> FoldState:
        """The state when an attempt ends before its work is done."""
        return replace(self, state=state, reason=reason, predictions="", learned=(), ended=now())

    def done(self, folder: Path, fold: Fold) -> FoldState:
        """The state when the work of a fold is done."""
        files = (file for file in folder.rglob("*") if file.suffix in {".json", ".safetensors"})
        learned = sorted(file.relative_to(folder).as_posix() for file in files if file.name not in _NOT_LEARNED)
        return replace(self.end("done"), predictions=predictions_digest(folder, fold), learned=tuple(learned))


def read_state(folder: Path, index: int, plan: str) -> FoldState:
    """Read a fold's state; a fold that never started is pending.

    Raises:
        DataError: The folder belongs to another plan.
    """
    path = folder / "fold.json"
    if not path.exists():
        return FoldState(index, plan)
    state = read_record(path, FoldState, f"Delete {folder} to run the fold again.")
    if (state.index, state.plan) != (index, plan):
        raise DataError(
            f"{folder} holds fold {state.index} of plan {state.plan[:12]}; expected fold {index} of plan {plan[:12]}. "
            "Start a new run in another folder."
        )
    return state


def write_state(folder: Path, state: FoldState) -> None:
    """Write a fold's state."""
    write_json(folder / "fold.json", asdict(state))


def read_predictions(folder: Path, fold: Fold) -> list[dict[str, str]]:
    """Read predictions.csv and check that it has exactly one row per test id; a fold without test ids needs none.

    Raises:
        DataError: Missing file or id column, or ids that are missing, repeated or not of this fold's test part.
    """
    if not fold.test:
        return []
    path = folder / "predictions.csv"
    try:
        rows = read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"Fold {fold.index} left no readable {path} ({error}). Run again with --resume.") from error
    if rows and "id" not in rows[0]:
        raise DataError(f"{path} has no column 'id'; it has {', '.join(rows[0])}.")
    found = Counter(row["id"] for row in rows)
    faults = {
        "missing": [name for name in fold.test if name not in found],
        "repeated": [name for name, count in found.items() if count > 1],
        "not in the test part": sorted(set(found) - set(fold.test)),
    }
    listed = [f"{len(names)} {what} ({some(names)})" for what, names in faults.items() if names]
    if listed:
        raise DataError(
            f"{path} should have one row for each of the {len(fold.test)} test cases of fold {fold.index}: "
            f"{'; '.join(listed)}. Run again with --resume."
        )
    return rows


def is_complete(folder: Path, fold: Fold, state: FoldState) -> bool:
    """Whether a fold is done, its predictions are still the ones it wrote, and what they follow from is there."""
    if state.state != "done" or not all((folder / name).is_file() for name in state.learned):
        return False
    try:
        read_predictions(folder, fold)
    except DataError:
        return False
    return predictions_digest(folder, fold) == state.predictions


def predictions_digest(folder: Path, fold: Fold) -> str:
    """SHA-256 of predictions.csv; empty for a fold without test ids."""
    return sha256(folder / "predictions.csv") if fold.test else ""
