"""Before training, each input file is opened once, and a resumed run opens no image at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.data.synthetic.brain_volumes import write_synthetic_volumes
from medformer.tasks.abide.learner import ConnectomeLearner
from medformer.tasks.polyp.learner import FrameLearner
from medformer.tasks.volume.learner import ClassificationLearner, SegmentationLearner

Medformer = Callable[..., Any]


@pytest.fixture(autouse=True)
def _stopped_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for learner in (FrameLearner, SegmentationLearner, ClassificationLearner, ConnectomeLearner):
        monkeypatch.setattr(learner, "fit", stop)


def inputs_of(opened: list[str], folder: Path, *suffixes: str) -> Counter[str]:
    """How often each file of the data was opened."""
    paths = [path for path in opened if Path(path).is_relative_to(folder)]
    return Counter(path for path in paths if path.endswith(suffixes))


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


@pytest.mark.parametrize(("given", "times"), [("manifest", 1), ("folder", 2)])
def test_volumes(medformer: Medformer, tmp_path: Path, opened: list[str], given: str, times: int) -> None:
    manifest = write_synthetic_volumes(tmp_path / "volumes", cases=8, spacing=8.0)
    options = ("plan.patch=[16, 16, 16]", "data.workers=0", "crossval.folds=2", "data.ungrouped=each")
    source = manifest if given == "manifest" else manifest.parent
    command = ("volume", "crossval", "--data", source, "--out", tmp_path / "run", *options)
    opened.clear()
    assert medformer(*command).code == 130
    counts = inputs_of(opened, manifest.parent, ".nii.gz")
    assert len(counts) == 16
    # A folder is hashed first, because its manifest says which files it lists.
    assert max(counts.values()) <= times

    opened.clear()
    assert medformer(*command, "--resume").code == 130
    assert not inputs_of(opened, manifest.parent, ".nii.gz")


def test_connectomes(medformer: Medformer, tmp_path: Path, opened: list[str]) -> None:
    write_synthetic_abide(tmp_path / "source", subjects=32, regions={"coarse": 12, "fine": 16}, effect=2.0)
    assert medformer("abide", "prepare", tmp_path / "source", "--out", tmp_path / "cohort").code == 0
    command = ("abide", "crossval", "--data", tmp_path / "cohort", "--out", tmp_path / "run", "crossval.folds=2")
    for resume in ((), ("--resume",)):
        opened.clear()
        assert medformer(*command, *resume).code == 130
        assert not inputs_of(opened, tmp_path / "source")
        assert set(inputs_of(opened, tmp_path / "cohort", ".csv", "store.json").values()) == {1}
        # NumPy opens a file three times to map it once.
        stored = inputs_of(opened, tmp_path / "cohort" / "features", "series.npy", "lengths.npy")
        assert set(stored.values()) == {3}
