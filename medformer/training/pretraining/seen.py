"""What pretraining has seen, so that no fold tests it: `subjects.json` in the folder of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from medformer.data.people import plain
from medformer.errors import CheckpointError, DataError, LeakageError
from medformer.files import read_json, write_json

SEEN_FILE = "subjects.json"
_DATA_KEYS = ("sha256", "image", "connections")
"""Under which the hash of the data is kept: today, and by the earlier versions for volumes and connectomes."""


class SeenCase(NamedTuple):
    """What tells a case apart from others.

    Attributes:
        group: Patient, person or sequence.
        sha256: Hash of the data: of image files, or of the connections of every atlas.
    """

    group: str
    sha256: str


def write_seen(folder: Path, cases: Mapping[str, SeenCase]) -> None:
    """Write which cases, by id, a pretraining sees."""
    write_json(folder / SEEN_FILE, {name: case._asdict() for name, case in cases.items()})


def read_seen(folder: str | Path, task: str) -> dict[str, SeenCase]:
    """Read which cases an encoder has seen, by id.

    Args:
        folder: Of the pretraining, also by an earlier version.
        task: For the message.

    Raises:
        CheckpointError: The folder does not say.
    """
    path = Path(folder) / SEEN_FILE
    try:
        return {
            name: SeenCase(row["group"], next(row[key] for key in _DATA_KEYS if key in row))
            for name, row in read_json(path).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration):
        raise CheckpointError(
            f"pretraining.weights: {path} is missing or damaged, so it is unknown whether pretraining has seen a "
            f"tested case. Expected a folder that `medformer {task} pretrain` wrote."
        ) from None


def require_same_seen(folder: Path, cases: Mapping[str, SeenCase]) -> None:
    """Refuse to continue a pretraining on other cases than it was begun with.

    Raises:
        DataError: A case came, went or changed; names the first. Or the folder's list is damaged.
    """
    path = folder / SEEN_FILE
    if not path.exists():
        return
    try:
        before = {name: SeenCase(**row) for name, row in read_json(path).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(f"{path} is damaged. Restore it, or start anew in another folder.") from None
    changed = [name for name in {**before, **cases} if before.get(name) != cases.get(name)]
    if changed:
        raise DataError(
            f"--resume: {len(changed)} cases are not those that {folder} was begun with: they are new, gone, or have "
            f"another group or other data; the first is '{changed[0]}'. Restore them, or start anew in another folder."
        )


def require_untested(tested: Mapping[str, SeenCase], seen: Mapping[str, SeenCase], where: str) -> None:
    """Refuse pretraining that sees a case which some fold tests, by id, group or identical data.

    Args:
        tested: Cases that a fold tests, by id.
        seen: Cases that pretraining sees, by id.
        where: These are from, for the message.

    Raises:
        LeakageError: Names the first of them.
    """
    groups = {plain(case.group): name for name, case in tested.items()}
    # Without a hash nothing is known of the data.
    data = {case.sha256: name for name, case in tested.items() if case.sha256}
    for name, case in seen.items():
        for same, match in (
            ("id", name if name in tested else None),
            ("group", groups.get(plain(case.group))),
            ("data", data.get(case.sha256)),
        ):
            if match is not None:
                raise LeakageError(
                    f"'{name}' of {where} is seen by pretraining and has the same {same} as '{match}', which is for "
                    "testing, in a fold or held out. Pretrain without it."
                )
