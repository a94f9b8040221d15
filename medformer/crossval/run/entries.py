"""What a run writes into its folder, and what in such a folder is somebody else's."""

from __future__ import annotations

import re
from pathlib import Path

from medformer.crossval.plan import read_plan
from medformer.errors import DataError
from medformer.files import is_temporary
from medformer.names import file_stems

FILES = ("run.json", "config.yaml", "splits.json", "audit.json", "oof.csv", "metrics.json", "report.html")
ENTRIES = frozenset(
    (
        *FILES,
        "model_card.md",
        "report_share.html",
        "model_card_share.md",
        "methods.md",
        "folds",
        "baselines",
        "canary",
        "oof.sha256",
        "curves.csv",
        "gallery",
        "site_probe.json",
        "cohort.json",
        "explain",
        "masks",
        "overlays",
        "probabilities",
        "train",
        "problems.csv",
        "predictions.csv",
        "mlruns",
        "model.safetensors",
        "state.safetensors",
        "history.csv",
        "history.jsonl",
        "pretraining.json",
        "subjects.json",
        "seen.json",
        "start",
        "manifest.csv",
        "manifest.csv.root.json",
        "manifest.csv.dataset.json",
        "held_out.csv",
        "held_out.csv.root.json",
        "plan.json",
        "features",
        "columns.json",
        "inventory",
        "inventory-extra",
        "cache",
    )
)
"""Everything a run writes at the top of its folder; `--overwrite` deletes these and nothing else."""

_EXPORTS = ("masks", "overlays", "probabilities")
_ENDINGS = (".png", ".nii.gz", ".npz")
_KINDS = {".json", ".jsonl", ".csv", ".safetensors", ".npz"}
_TEXTS = {"error.txt", "worker.log"}
_PICTURE = re.compile(r"[0-9a-f]+\.(jpg|png)")
_REPEAT = re.compile(r"^repeat-\d+/")
_PART = re.compile(r"[0-9a-f]{16}\.\d{6}\.(npz|json)")


def visible(path: Path) -> list[str]:
    """Names in a folder, without our lock and what a call leaves that was cut off before its run began."""
    if not path.is_dir():
        return []
    names = sorted(entry.name for entry in path.iterdir() if not _is_cache(entry))
    return [name for name in names if name != ".lock" and not is_temporary(name)]


def foreign_exports(path: Path, plan: Path) -> list[str]:
    """Files among the masks and pictures of a run that are not named after a case of its plan.

    Args:
        path: The run.
        plan: Its splits.json.
    """
    files = {
        file.relative_to(folder).as_posix(): file.relative_to(path).as_posix()
        for folder in (path / name for name in _EXPORTS)
        if not folder.is_symlink()
        for file in folder.rglob("*")
        if file.is_file() and not is_temporary(file.name)
    }
    if not files:
        return []
    try:
        ids = [case.id for case in read_plan(plan).cases]
    except DataError:
        ids = []
    stems = {*ids, *file_stems(ids).values()}
    return sorted(where for name, where in files.items() if _stem(name) not in stems)


def foreign_kinds(path: Path) -> list[str]:
    """Files in the folders of folds, pictures and explanations of a run, of a kind that no run writes there."""
    found = []
    for folder in (path / name for name in ("folds", "train", "explain", "gallery")):
        for file in () if folder.is_symlink() else folder.rglob("*"):
            own = file.suffix in _KINDS or file.name in _TEXTS or file.name.startswith("events.out.tfevents.")
            if folder.name == "gallery":
                own = _PICTURE.fullmatch(file.name) is not None
            if not (own or file.name.startswith(".")) and file.is_file():
                found.append(file.relative_to(path).as_posix())
    return sorted(found)


def _stem(name: str) -> str:
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return _REPEAT.sub("", name).removesuffix(ending)


def _is_cache(entry: Path) -> bool:
    """Whether this is what was read of the files of a run that then did not begin."""
    if entry.name not in {"inventory", "inventory-extra"} or not entry.is_dir():
        return False
    return all(_PART.fullmatch(file.name) or is_temporary(file.name) for file in entry.iterdir())
