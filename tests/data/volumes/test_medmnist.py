"""A MedMNIST file becomes volumes whose voxels, classes and splits are those of the arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.config import VolumeConfig
from medformer.data.manifest import read_manifest
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.read.dataset_file import read_info
from medformer.data.volumes.read.medmnist import write_medmnist
from medformer.errors import ConfigError, DataError
from medformer.imaging.volumes import read_volume
from medformer.progress import SilentReporter
from medformer.tasks.volume.dataset import open_volumes


def arrays(**changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        content[f"{split}_images"] = generator.integers(0, 256, (count, 5, 6, 7), dtype=np.uint8)
        content[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    return {name: value for name, value in (content | changes).items() if value is not None}


def test_samples_become_cases(tmp_path: Path) -> None:
    content = arrays()
    np.savez(tmp_path / "organ.npz", **content)
    path = write_medmnist(tmp_path / "organ.npz", tmp_path / "out")
    cases = read_manifest(path).cases
    assert [case.split for case in cases] == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert [case.label for case in cases[:4]] == [0, 1, 0, 1]
    volume = read_volume(cases[5].image)
    assert np.array_equal(volume.array, content["val_images"][1])
    assert np.array_equal(volume.geometry.affine, np.eye(4))
    assert volume_problems(cases, inspect_volumes(cases), read_info(path), target="classification") == []
    before = path.read_bytes()
    assert write_medmnist(tmp_path / "organ.npz", tmp_path / "out").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"val_labels": None}, "val_labels"),
        ({"train_labels": np.array([[0], [1], [2], [0]])}, "classes 0, 1, 2"),
        ({"test_labels": np.zeros((2, 1), int)}, "test_images is uint8"),
        ({"test_images": np.zeros((3, 5, 6), np.uint8)}, "test_images is uint8"),
        ({"train_images": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays(**changes))
    with pytest.raises(DataError, match=match):
        write_medmnist(tmp_path / "x.npz", tmp_path / "out")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match="cannot be read"):
        write_medmnist(tmp_path / "y.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "advice"), [("a.npz", "volume prepare"), ("scan.nii.gz", "Give its folder")])
def test_what_is_no_manifest_is_not_read_as_one(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b\x00")
    config = VolumeConfig.model_validate({"data": {"manifest": str(tmp_path / name)}})
    with pytest.raises(ConfigError, match=f"is no manifest.*{advice}"):
        open_volumes(config, None, SilentReporter())
