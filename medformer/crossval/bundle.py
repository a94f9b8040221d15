"""A bundle: the folder of a trained model that may be passed on, and the check that it is still what was exported.

It holds `bundle.json`, which says what it is and lists the SHA-256 of every file, `config.yaml`, `model_card.md`, and
below `folds/` what the folds learned, in the form that a run has. Nothing in it tells which cases it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import medformer
from medformer.config import SCHEMAS
from medformer.config_loading import load_config
from medformer.errors import CheckpointError, ConfigError
from medformer.files import digest, file_fault, files_below, sha256, strict_json, write_json
from medformer.records import Content, checked, read_record

BUNDLE_FILE = "bundle.json"
CONFIG_FILE = "config.yaml"
CARD_FILE = "model_card.md"
FOLDS = "folds"

VERSION = 1
_FORMAT = "medformer-bundle/"
_ADVICE = "Copy the bundle again from where it came from, or export it again."
_OWN_HASH = "sha256"


class BundleRecord(Content):
    """What `bundle.json` must hold to be used.

    Attributes:
        task: Name of the task.
        folds: The folds whose networks are in the bundle.
        files: SHA-256 of every other file, by its name with forward slashes.
        made_by: SHA-256 of what predicts, the same as that of the run.
        sha256: SHA-256 of all the rest of this file.
    """

    task: str
    folds: list[int]
    files: dict[str, str]
    made_by: str
    sha256: str


class _Head(Content):
    format: str
    medformer: str = ""


@dataclass(frozen=True)
class Bundle:
    """A bundle that is complete and unchanged.

    Attributes:
        path: Its folder.
        record: `bundle.json`.
        config: Of the training, without what names data; its type is the task's.
    """

    path: Path
    record: BundleRecord
    config: Any

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of its folds."""
        return tuple(fold_folder(self.path, fold) for fold in self.record.folds)


def fold_folder(bundle: Path, fold: int | str) -> Path:
    """The folder of a fold in a bundle."""
    return bundle / FOLDS / str(fold)


def is_bundle(path: Path) -> bool:
    """Whether a folder holds a bundle, whole or damaged."""
    return (Path(path) / BUNDLE_FILE).is_file()


def open_bundle(path: Path, task: str | None = None) -> Bundle:
    """Open a bundle and check every file of it.

    Args:
        path: Its folder.
        task: The only task that will do; any without it.

    Raises:
        ConfigError: It is of another task.
        CheckpointError: A file is missing, damaged, was edited or added below `folds/`, or a newer version wrote the
            bundle.
    """
    path = Path(path)
    file = path / BUNDLE_FILE
    content = read_record(file, dict[str, Any], _ADVICE, error=CheckpointError)
    _require_known(checked(content, _Head, file, _ADVICE, error=CheckpointError), path)
    record = checked(content, BundleRecord, file, _ADVICE, error=CheckpointError)
    if own_hash(content) != record.sha256:
        raise CheckpointError(f"{file} was edited or damaged: it does not have the SHA-256 that it states. {_ADVICE}")
    if task is not None and record.task != task:
        raise ConfigError(
            f"{path} is a bundle of the task {record.task}; this command works on those of `medformer {task}`."
        )
    if record.task not in SCHEMAS or not record.folds or CONFIG_FILE not in record.files:
        raise CheckpointError(f"{file} names no task of ours, no fold or no config. {_ADVICE}")
    for name, recorded in record.files.items():
        _require_same(path, name, recorded)
    _require_nothing_else(path, record)
    try:
        config = load_config(path / CONFIG_FILE, [], model=SCHEMAS[record.task])
    except ConfigError as error:
        raise CheckpointError(
            f"{path} was exported by medformer {content.get('medformer')}, whose config medformer "
            f"{medformer.__version__} cannot read ({error}) Install the version that exported it."
        ) from error
    return Bundle(path, record, config)


def write_record(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write `bundle.json` into a folder that holds all other files of a bundle.

    Args:
        path: The folder.
        content: What it says besides its format and the hashes.

    Returns:
        All that it says.
    """
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    whole = strict_json(
        {
            "format": f"{_FORMAT}{VERSION}",
            "medformer": medformer.__version__,
            **content,
            "files": {name: sha256(path / name) for name in names if name != BUNDLE_FILE and not name.startswith(".")},
        }
    )
    whole[_OWN_HASH] = own_hash(whole)
    write_json(path / BUNDLE_FILE, whole)
    return whole


def own_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of what `bundle.json` says besides this hash."""
    return digest({key: value for key, value in content.items() if key != _OWN_HASH})


def _require_known(head: _Head, path: Path) -> None:
    match = re.fullmatch(re.escape(_FORMAT) + r"(\d{1,9})", head.format)
    if match is None:
        raise CheckpointError(
            f"{path / BUNDLE_FILE} is of the format {head.format!r}, expected {_FORMAT}{VERSION}. {_ADVICE}"
        )
    if int(match[1]) > VERSION:
        raise CheckpointError(
            f"{path} has the bundle format {match[1]}, which medformer {head.medformer or 'of a later version'} wrote; "
            f"medformer {medformer.__version__} reads formats up to {VERSION}. Install the newer medformer, or ask for "
            "an export with this one."
        )


def _require_nothing_else(path: Path, record: BundleRecord) -> None:
    """Refuse files that were put below `folds/`: some that predict are optional, and are read where they are there."""
    listed = {path / name for name in record.files}
    for file in files_below(path / FOLDS) if (path / FOLDS).is_dir() else ():
        if file not in listed:
            raise CheckpointError(f"{file} is no part of the bundle that was exported. Remove it.")


def _require_same(path: Path, name: str, recorded: str) -> None:
    """Refuse a file that is not the one that was exported."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name:
        raise CheckpointError(f"{path / BUNDLE_FILE} names a file outside of the bundle, {name!r}. {_ADVICE}")
    fault = file_fault(path / place)
    if fault:
        raise CheckpointError(f"{path / place} {fault}; it is a part of the bundle. {_ADVICE}")
    found = sha256(path / place)
    if found != recorded:
        raise CheckpointError(
            f"{path / place} is not the file that was exported: its SHA-256 is {found[:12]}, expected {recorded[:12]}. "
            f"It was edited or damaged. {_ADVICE}"
        )
