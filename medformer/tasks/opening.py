"""Opening data of any task by what they are: a manifest, a prepared cohort, or a folder in a layout that many have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medformer.config import SCHEMAS, PolypConfig
from medformer.crossval.run.contract import Study
from medformer.data.case_names import posix_name, without_ending
from medformer.data.cases import Case
from medformer.data.connectomes.cohort import FEATURES, MANIFEST_FILE
from medformer.data.frames.layouts import scan
from medformer.data.group_table import groups_by_pattern
from medformer.data.manifest import Manifest
from medformer.data.tables import TableForm, read_cells
from medformer.data.volumes.read.channels import ENDINGS
from medformer.errors import ConfigError, DataError
from medformer.files import walk
from medformer.inference.scoring import SUFFIXES
from medformer.progress import Reporter
from medformer.tasks import get_task
from medformer.tasks.polyp.study import PolypStudy
from medformer.tasks.volume.study import VolumeStudy

_VOLUMES = (*ENDINGS, ".dcm")
_PICTURES = tuple(sorted(SUFFIXES - {".npz"}))
_CONNECTOMES = (".1d", ".npy", ".mat", ".csv")
_TABLE = TableForm("a CSV manifest", "`prepare` writes one.", ("id", "image"), (), "case")


@dataclass(frozen=True)
class Opened:
    """Data of a task.

    Attributes:
        study: Its cases.
        labelled: Whether every case has a mask or a label.
        notes: What a reader must know of the cases.
    """

    study: Study[Any, Any]
    labelled: bool
    notes: tuple[str, ...] = ()


def open_data(path: Path, reporter: Reporter, *, task: str | None = None, group_pattern: str | None = None) -> Opened:
    """Open data to look at, without training on them: nothing need be labeled, and no patient need be known.

    Args:
        path: A manifest, a cohort, or a folder: of frames in a layout of `medformer polyp prepare` or of pictures
            alone, or of volumes in a layout of `medformer volume prepare`.
        reporter: Receives the progress.
        task: Of the data; found out unless given.
        group_pattern: Regular expression with one group, which finds the patient in the names of a folder's files.

    Raises:
        ConfigError: They are of no known kind, or connectomes that have to be prepared first.
        DataError: They cannot be read.
    """
    path = Path(path)
    path = path / MANIFEST_FILE if _is_manifest(path / MANIFEST_FILE) else path
    task = task or task_of(path)
    if group_pattern is not None and (path.is_file() or task == "abide"):
        raise ConfigError(
            f"--group-pattern finds patients in the names of a folder's files, and {path} is a manifest. Fill its "
            "column `group`."
        )
    if task == "polyp" and path.is_dir():
        opened = _frames(path, group_pattern)
    else:
        keys: dict[str, Any] = {"data": {"manifest": str(path)}}
        if task != "abide":
            keys["data"]["ungrouped"] = "each"
        if group_pattern is not None:
            keys["data"]["group_pattern"] = group_pattern
        study = get_task(task).open(SCHEMAS[task].model_validate(keys), reporter, labelled=False)
        opened = _with_labels(study)
    groups = {case.group for case in opened.study.cases}
    if groups == {case.id for case in opened.study.cases} and not opened.study.notes:
        told = "" if path.is_file() else ", or give --group-pattern where the names of files tell it"
        note = (
            "No patient or sequence is known, so every case counts as one of its own: the same patient in two parts is "
            f"found only where the data look alike. Fill the column `group` of a manifest{told}."
        )
        return replace(opened, notes=(*opened.notes, note))
    return opened


def task_of(path: Path) -> str:
    """The task that data belong to.

    Raises:
        ConfigError: They are of no known kind, or connectomes that have to be prepared first.
        DataError: They cannot be read.
    """
    if path.is_file():
        return _task_of_table(path)
    if not path.is_dir():
        raise ConfigError(f"There are no data at {path}. Give a manifest, a cohort, or a folder of images or volumes.")
    kinds = set()
    for folder, files in walk(path):
        names = [file.name.lower() for file in files]
        if ("dataset.json" in names and folder == path) or any(name.endswith(_VOLUMES) for name in names):
            return "volume"
        kinds |= {what for what, endings in _KINDS.items() if any(name.endswith(endings) for name in names)}
    if "polyp" in kinds:
        return "polyp"
    if "abide" in kinds:
        raise ConfigError(
            f"{path} looks like time series or matrices of connectomes. Prepare the cohort first: medformer abide "
            f"prepare {path} --out COHORT"
        )
    raise ConfigError(
        f"{path} holds neither pictures nor volumes. Give a manifest, a cohort, or a folder of images or volumes."
    )


def _is_manifest(file: Path) -> bool:
    """Whether a file is a manifest of pictures or volumes, or of a cohort."""
    if not file.is_file():
        return False
    header, _ = read_cells(file, _TABLE)
    return "id" in header and ("image" in header or (file.parent / FEATURES).is_dir())


_KINDS = {"polyp": _PICTURES, "abide": _CONNECTOMES}
"""What files say that a folder is of a task, unless it holds volumes."""


def _task_of_table(path: Path) -> str:
    if path.suffix.lower() == ".npz":
        raise ConfigError(
            f"{path} holds arrays. Run `medformer volume prepare` or `medformer abide prepare` on it first."
        )
    header, rows = read_cells(path, _TABLE)
    if "image" not in header:
        if (path.parent / FEATURES).is_dir():
            return "abide"
        raise ConfigError(
            f"{path} has no column `image`, and no cohort's folder {FEATURES}/ lies beside it; expected a manifest, or "
            "the manifest.csv of a cohort."
        )
    place = header.index("image")
    images = [cells[place].lower() for _, cells in rows if len(cells) > place and cells[place]]
    pictures = [image for image in images if image.endswith(_PICTURES)]
    return "polyp" if pictures and len(pictures) == len(images) else "volume"


def _frames(folder: Path, group_pattern: str | None) -> Opened:
    """Frames of a folder in a known layout; or every picture below one that has none."""
    notes: list[str] = []
    try:
        found = scan(folder, group_pattern=group_pattern)
        cases = found.cases
        notes += found.notes
        if found.problems:
            notes.append(
                f"{len(found.problems)} file(s) do not fit the layout of {folder}, such as {found.problems[0]}"
            )
    except DataError:
        cases = tuple(_pictures(folder))
        if not cases:
            raise
        if group_pattern is not None:
            groups = groups_by_pattern([case.id for case in cases], group_pattern)
            cases = tuple(replace(case, group=groups[case.id]) for case in cases)
    # As a manifest without groups is read.
    cases = tuple(replace(case, group=case.group or case.id) for case in cases)
    labelled = all(case.mask is not None for case in cases)
    data = Manifest(folder, folder.absolute(), cases)
    return Opened(PolypStudy(config=PolypConfig(), data=data, masks=labelled), labelled, tuple(notes))


def _pictures(folder: Path) -> Sequence[Case]:
    """Every picture below a folder, named by its path."""
    return [
        Case(without_ending(posix_name(file.relative_to(folder).as_posix())), file)
        for _, files in walk(folder)
        for file in files
        if file.name.lower().endswith(_PICTURES)
    ]


def _with_labels(study: Study[Any, Any]) -> Opened:
    """The study with its masks or labels, where every case has one."""
    masks = all(case.mask is not None for case in study.cases)
    labels = all(case.label is not None for case in study.cases)
    notes = tuple(study.notes)
    if isinstance(study, PolypStudy):
        return Opened(replace(study, masks=masks), masks, notes)
    if isinstance(study, VolumeStudy):
        config = study.config.model_copy(update={"target": "segmentation" if masks else "classification"})
        return Opened(
            replace(study, config=config, labelled=True) if masks or labels else study, masks or labels, notes
        )
    return Opened(study, labels, notes)
