"""The trained network that a run starts from (`training.init_from`): found, copied into the run, and read again.

The run keeps the network in its folder `start/`, with what it has seen, so that once begun it needs the other run no
longer.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medformer.config import AnyConfig
from medformer.crossval.bundle import FOLDS, fold_folder, is_bundle, open_bundle
from medformer.crossval.plan import read_plan
from medformer.crossval.run.collect import planned_folds
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.journal import read_state
from medformer.crossval.run.record import read_config
from medformer.crossval.run.start.seen import SEEN_BY_BUNDLE, Seen, read_before, seen_by_bundle, seen_by_fold
from medformer.data.seen import UNREADABLE
from medformer.errors import CheckpointError, ConfigError, MedformerError
from medformer.files import atomic_path, digest, sha256, write_json
from medformer.records import Content, Names, Rows, Table, read_record
from medformer.tensor_file import read_tensors

KEY = "training.init_from"
RECORD = "source.json"
_FORMAT = "medformer-start/1"
_WEIGHTS = "model.safetensors"
_BESIDE = ("plan.json", "columns.json", "trained_on.json")
"""What says how the tensors are to be understood: the plan of volumes; atlases and regions of connectomes."""


@dataclass(frozen=True)
class StartRecord:
    """Where a network is from.

    Attributes:
        what: The network in words, without folders of the machine: `fold 0 of run`.
        task: Of the run that trained it.
        settings: Of its config: how the network is built, and what it is given.
        fold: Which network of the run.
        sha256: Over its files.
        seen: What it has seen.
        weights: `model.weights` of its config: what its encoder began with.
        pretrained: What its run says of these: their data and license.
    """

    what: str
    task: str
    settings: Mapping[str, Any]
    fold: int
    sha256: str
    seen: Seen = field(default_factory=Seen)
    weights: str | None = None
    pretrained: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        names = ("what", "task", "settings", "fold", "sha256", "weights", "pretrained")
        own = {name: getattr(self, name) for name in names}
        return {"format": _FORMAT, **own, **self.seen.to_json()}


@dataclass(frozen=True)
class Start:
    """A trained network to start from.

    Attributes:
        folder: With its files: those of a fold, or their copies.
        record: Where it is from.
    """

    folder: Path
    record: StartRecord

    @property
    def members(self) -> int:
        """How many networks the fold has, of different seeds."""
        return len(_networks(self.folder))

    def tensors(self, member: int = 0) -> dict[str, Any]:
        """Read a network; where there are fewer members, they are used in turn.

        Raises:
            CheckpointError: It is missing or damaged, or holds NaN.
        """
        path = self.folder / _networks(self.folder)[member % self.members]
        tensors, _ = read_tensors(path)
        bad = next((name for name, value in tensors.items() if not bool(value.isfinite().all())), None)
        if bad is not None:
            raise CheckpointError(f"{path} holds NaN or infinity in '{bad}', expected finite weights. Train it again.")
        return tensors


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config decides how the network is built and what it is given, by dotted key."""
    found: dict[str, Any] = {"target": config["target"]} if "target" in config else {}
    for section, keys in {"model": None, "features": None, "data": ("image_size", "measure")}.items():
        values = config.get(section) or {}
        # Where weights came from, which of them are trained, and how memory is saved, change no tensor.
        other = ("weights", "frozen", "checkpointing")
        chosen = [key for key in values if (keys is None or key in keys) and key not in other]
        found |= {f"{section}.{key}": values[key] for key in chosen}
    return found


def find_start(config: AnyConfig, directory: RunDirectory, *, resume: bool) -> Start | None:
    """Find the network that a run starts from; None where its config names none.

    Args:
        config: Of the run.
        directory: Of the run; a resumed one has its copy.
        resume: Whether the run goes on.

    Raises:
        ConfigError: There is no such network, it is of another task, or it is not the one that the run began with.
        CheckpointError: Its files are damaged.
    """
    given = config.training.init_from
    if not given:
        return None
    if not (resume and (directory.start / RECORD).is_file()):
        return open_start(Path(given), config.task)
    copied = _read_copy(directory)
    if not Path(given).exists():
        return copied
    try:
        changed = open_start(Path(given), config.task, copied.record.fold).record.sha256 != copied.record.sha256
    except MedformerError:
        changed = True
    if changed:
        raise ConfigError(
            f"--resume: {given} is not the network that {directory.path} was started from. Restore it; or move "
            f"it away, and the copy in {directory.start} is used; or start a new run in another folder."
        )
    return copied


def keep_start(start: Start | None, directory: RunDirectory) -> Start | None:
    """Copy the network into the run; the copy is what every fold reads.

    Raises:
        ResourceError: The disk is full.
    """
    if start is None or start.folder == directory.start:
        return start
    for name in _files(start.folder):
        with atomic_path(directory.start / name) as temporary:
            shutil.copyfile(start.folder / name, temporary)
    write_json(directory.start / RECORD, start.record.to_json())
    return _read_copy(directory)


def open_start(path: Path, task: str, fold: int | None = None) -> Start:
    """Open the network that `--init-from` names.

    Args:
        path: A run or a bundle, whose first trained fold is taken; or the folder of a fold of one, `RUN/folds/K`.
        task: It must be of this task.
        fold: Which fold, where the path names none.

    Raises:
        ConfigError: There is none, or it is of another task.
        DataError: Files of the run or bundle are damaged.
    """
    inside = path.parent.name == FOLDS and path.name.isdecimal()
    folder, wanted = (path.parent.parent, int(path.name)) if inside else (path, fold)
    if not folder.exists():
        raise ConfigError(
            f"{KEY}: there is no {path}. Give the folder of a run that `medformer {task} train` or `crossval` wrote, "
            "or of a bundle."
        )
    if is_bundle(folder):
        return _of_bundle(folder, task, wanted)
    if folder.is_dir() and RunDirectory(folder).is_run():
        return _of_run(RunDirectory(folder), task, wanted)
    raise ConfigError(
        f"{KEY}: {path} is neither a run nor a bundle. Give the folder of one, or of one of its folds (RUN/folds/0); "
        "published weights of a backbone are for model.weights, and an encoder of `pretrain` is for "
        "pretraining.weights."
    )


def _of_bundle(path: Path, task: str, wanted: int | None) -> Start:
    bundle = open_bundle(path, task)
    fold = _chosen(path, bundle.record.folds, wanted)
    where = f"fold {fold} of the bundle {path.resolve().name}"
    config, told = bundle.config.model_dump(mode="json"), bundle.record.plain
    folder = fold_folder(path, fold)
    seen = seen_by_bundle(path / SEEN_BY_BUNDLE, f"the bundle {path.resolve().name}")
    weights, pretrained = config["model"].get("weights"), told.get("pretrained") or {}
    return Start(
        folder, StartRecord(where, task, settings_of(config), fold, _digest(folder), seen, weights, pretrained)
    )


def _of_run(run: RunDirectory, task: str, wanted: int | None) -> Start:
    told = run.record()
    if told["task"] != task:
        raise ConfigError(
            f"{KEY}: {run.path} is a run of the task {told['task']}; a run of {task} starts from one of the same task."
        )
    config, folds = read_config(run), planned_folds(run)
    plan = read_plan(run.splits_json).digest() if folds else ""
    trained = [
        fold.index
        for fold in folds
        if read_state(run.fold(fold.index), fold.index, plan).state == "done"
        and (run.fold(fold.index) / _WEIGHTS).is_file()
    ]
    fold = folds[_chosen(run.path, trained, wanted)]
    where, folder = f"fold {fold.index} of {run.path.resolve().name}", run.fold(fold.index)
    seen = seen_by_fold(run, fold, where)
    weights, pretrained = (config.get("model") or {}).get("weights"), told["pretrained"]
    return Start(
        folder, StartRecord(where, task, settings_of(config), fold.index, _digest(folder), seen, weights, pretrained)
    )


def _chosen(path: Path, trained: Sequence[int], wanted: int | None) -> int:
    """The fold that is named, or the first that is trained.

    Raises:
        ConfigError: It is not trained, or none is.
    """
    found = [fold for fold in trained if wanted is None or fold == wanted]
    if not found:
        which = f"no trained fold {wanted}" if wanted is not None else "no trained network"
        advice = f"Trained are {', '.join(map(str, trained))}." if trained else "Finish that run with --resume first."
        raise ConfigError(f"{KEY}: {path} holds {which}. {advice}")
    return found[0]


class _Copy(Content):
    what: str
    task: str
    settings: Table
    fold: int
    sha256: str
    weights: str | None = None
    pretrained: Table
    before: Rows
    unknown: Names


def _read_copy(directory: RunDirectory) -> Start:
    path, advice = directory.start / RECORD, "Restore the folder, or start a new run in another folder."
    content = read_record(path, _Copy, advice, error=CheckpointError)
    try:
        seen = read_before(content.plain)
    except UNREADABLE:
        raise CheckpointError(f"{path} does not say what the network has seen. {advice}") from None
    if not (directory.start / _WEIGHTS).is_file() or _digest(directory.start) != content.sha256:
        raise CheckpointError(f"{directory.start} does not hold the network that the run was started from. {advice}")
    record = StartRecord(
        content.what,
        content.task,
        content.settings,
        content.fold,
        content.sha256,
        seen,
        content.weights,
        content.pretrained,
    )
    return Start(directory.start, record)


def _networks(folder: Path) -> list[str]:
    """The files of weights of a fold, in the order of its members."""
    more = sorted(folder.glob(f"members/*/{_WEIGHTS}"), key=lambda file: (len(file.parent.name), file.parent.name))
    return [_WEIGHTS, *(file.relative_to(folder).as_posix() for file in more)]


def _files(folder: Path) -> list[str]:
    return [*_networks(folder), *(name for name in _BESIDE if (folder / name).is_file())]


def _digest(folder: Path) -> str:
    return digest([[name, sha256(folder / name)] for name in _files(folder)])
