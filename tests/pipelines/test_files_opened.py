"""How often a run opens the files of its cases: twice at most up to training, and not at all when it goes on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from medformer.data.manifest import read_manifest
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.volumes.read.dataset_file import info_path
from medformer.tasks.polyp.learner import FrameLearner

Medformer = Callable[..., Any]

CASES = 12
VOLUME = ("plan.patch=[16, 16, 16]", "plan.batch_size=2", "data.workers=0", "data.ungrouped=each", "crossval.folds=2")
# A folder does not say that two scans are of one patient.
LEAK = ("--accept-leak", "near-duplicate:*")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of small brains with their classes."""
    return write_synthetic_volumes(tmp_path_factory.mktemp("volumes"), cases=CASES, spacing=12.0)


def described(volumes: Path, tmp_path: Path) -> Path:
    return volumes


def without_labels_named(volumes: Path, tmp_path: Path) -> Path:
    """A manifest whose labels have to be found in the label maps."""
    shutil.copytree(volumes.parent, tmp_path / "data")
    info_path(tmp_path / "data" / volumes.name).unlink()
    return tmp_path / "data" / volumes.name


def folder(volumes: Path, tmp_path: Path) -> Path:
    """Nothing but images and label maps."""
    for kind in ("images", "labels"):
        shutil.copytree(volumes.parent / kind, tmp_path / "plain" / kind)
    return tmp_path / "plain"


def described_folder(volumes: Path, tmp_path: Path) -> Path:
    """A folder of the Medical Segmentation Decathlon, which names its labels."""
    path = tmp_path / "Task99_Brain"
    for source, target in (("images", "imagesTr"), ("labels", "labelsTr")):
        shutil.copytree(volumes.parent / source, path / target)
    names = sorted(file.name for file in (path / "imagesTr").iterdir())
    content = {
        "name": "Brain",
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "gray matter", "2": "white matter", "3": "lesion"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (path / "dataset.json").write_text(json.dumps(content))
    return path


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def counted(opened: list[str], data: Path) -> Mapping[str, int]:
    """How often each picture or volume below the data was opened since the last call."""
    files = [Path(path) for path in opened]
    opened.clear()
    root = data if data.is_dir() else data.parent
    return Counter(str(file) for file in files if file.is_relative_to(root) and file.suffix in {".jpg", ".png", ".gz"})


@pytest.mark.parametrize(
    ("target", "form"),
    [
        ("segmentation", described),
        ("segmentation", without_labels_named),
        ("segmentation", folder),
        ("segmentation", described_folder),
        ("classification", described),
        ("classification", without_labels_named),
    ],
)
def test_a_volume_is_opened_to_be_inspected_and_to_be_prepared(
    medformer: Medformer,
    volumes: Path,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    form: Callable[[Path, Path], Path],
) -> None:
    data = form(volumes, tmp_path)
    command = ("volume", "crossval", "--task", target, "--data", data, "--out", tmp_path / "run", *VOLUME, *LEAK)
    monkeypatch.setattr("medformer.tasks.volume.learner.fit", stop)
    opened.clear()
    assert medformer(*command).code == 130
    counts = counted(opened, data)
    assert len(counts) == CASES * (2 if target == "segmentation" else 1)
    assert max(counts.values()) <= 2
    assert medformer(*command, "--resume").code == 130
    assert counted(opened, data) == {}


def test_a_frame_is_opened_once_up_to_training(
    medformer: Medformer,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("polyp", "crossval", "--data", data, "--out", tmp_path / "run", *settings)
    monkeypatch.setattr(FrameLearner, "fit", stop)
    opened.clear()
    assert medformer(*command).code == 130
    counts = counted(opened, data)
    files = [file for case in read_manifest(data).cases for file in (case.image, case.mask)]
    assert counts == dict.fromkeys(map(str, files), 1)
    assert medformer(*command, "--resume").code == 130
    assert counted(opened, data) == {}


def test_a_finished_run_that_is_resumed_decodes_no_image(
    medformer: Medformer,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("polyp", "crossval", "--data", data, "--out", tmp_path / "run", "--permute-labels", *settings)
    done = medformer(*command, "training.epochs=1")
    assert done.code == 0, done.err
    oof = (tmp_path / "run" / "oof.csv").read_bytes()
    monkeypatch.setattr("pipelines.work.build_report", lambda run: run / "report.html")
    monkeypatch.setattr("PIL.Image.open", stop)
    monkeypatch.setattr("cv2.imdecode", stop)
    opened.clear()
    again = medformer(*command, "training.epochs=1", "--resume")
    assert again.code == 0, again.err
    assert counted(opened, data) == {}
    assert (tmp_path / "run" / "oof.csv").read_bytes() == oof
