"""Before training, a file is opened to be inspected and perhaps to be prepared; a resumed run opens no image at all."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.data.volumes.read.dataset_file import info_path
from medformer.tasks.abide.learner import ConnectomeLearner
from medformer.tasks.polyp.learner import FrameLearner

Medformer = Callable[..., Any]

CASES = 12
VOLUME = ("plan.patch=[16, 16, 16]", "plan.batch_size=2", "data.workers=0", "data.ungrouped=each", "crossval.folds=2")
# A folder does not say that two scans are of one patient.
LEAK = ("--accept-leak", "near-duplicate:*")


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for learner in (FrameLearner, ConnectomeLearner):
        monkeypatch.setattr(learner, "fit", stop)


def inputs_of(opened: list[str], folder: Path, *suffixes: str) -> Counter[str]:
    """How often each file of the data was opened."""
    paths = [path for path in opened if Path(path).is_relative_to(folder)]
    return Counter(path for path in paths if path.endswith(suffixes))


@pytest.mark.usefixtures("stopped_before_training")
@pytest.mark.parametrize("verb", ["crossval", "train"])
def test_frames(
    medformer: Medformer, data: Path, settings: tuple[str, ...], tmp_path: Path, opened: list[str], verb: str
) -> None:
    command = ("polyp", verb, "--data", data, "--out", tmp_path / "run", *settings)
    assert medformer(*command).code == 130
    counts = inputs_of(opened, data.parent, ".jpg", ".png")
    assert len(counts) == 32
    assert set(counts.values()) == {1}

    opened.clear()
    assert medformer(*command, "--resume").code == 130
    assert not inputs_of(opened, data.parent, ".jpg", ".png")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of small brains with their classes."""
    return write_synthetic_volumes(tmp_path_factory.mktemp("volumes"), cases=CASES, spacing=16.0)


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
    backbone = "model.backbone=tiny" if target == "segmentation" else "model.backbone=tiny_classes"
    settings = (*VOLUME, *LEAK, backbone)
    command = ("volume", "crossval", "--task", target, "--data", data, "--out", tmp_path / "run", *settings)
    monkeypatch.setattr("medformer.tasks.volume.learner.fit", stop)
    root = data if data.is_dir() else data.parent
    opened.clear()
    assert medformer(*command).code == 130
    counts = inputs_of(opened, root, ".nii.gz")
    assert len(counts) == CASES * (2 if target == "segmentation" else 1)
    assert max(counts.values()) <= 2

    opened.clear()
    assert medformer(*command, "--resume").code == 130
    assert not inputs_of(opened, root, ".nii.gz")


@pytest.mark.usefixtures("stopped_before_training")
def test_connectomes(medformer: Medformer, tmp_path: Path, opened: list[str]) -> None:
    write_synthetic_abide(tmp_path / "source", subjects=32, regions={"coarse": 12, "fine": 16}, volumes=60)
    assert medformer("abide", "prepare", tmp_path / "source", "--out", tmp_path / "cohort").code == 0
    command = ("abide", "crossval", "--data", tmp_path / "cohort", "--out", tmp_path / "run", "crossval.folds=2")
    for resume in ((), ("--resume",)):
        opened.clear()
        assert medformer(*command, *resume).code == 130
        assert not inputs_of(opened, tmp_path / "source")
        assert set(inputs_of(opened, tmp_path / "cohort", ".csv", "store.json").values()) == {1}
        stored = inputs_of(opened, tmp_path / "cohort" / "features", "series.npy", "lengths.npy")
        assert set(stored.values()) == {1}


def test_a_finished_run_that_is_resumed_decodes_no_image(
    medformer: Medformer,
    data: Path,
    settings: tuple[str, ...],
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("polyp", "crossval", "--data", data, "--out", tmp_path / "run", "--permute-labels", *settings)
    done = medformer(*command, "training.epochs=1", report=False)
    assert done.code == 0, done.err
    oof = (tmp_path / "run" / "oof.csv").read_bytes()
    monkeypatch.setattr("PIL.Image.open", stop)
    monkeypatch.setattr("cv2.imdecode", stop)
    opened.clear()
    again = medformer(*command, "training.epochs=1", "--resume", report=False)
    assert again.code == 0, again.err
    assert not inputs_of(opened, data.parent, ".jpg", ".png")
    assert (tmp_path / "run" / "oof.csv").read_bytes() == oof
