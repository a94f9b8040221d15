"""Probability maps lie on the grid of their image, read back as they were made, and are never whole in memory."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.errors import ResourceError
from medformer.files import read_csv
from medformer.imaging import nifti_labels
from medformer.imaging.volumes import read_channels
from medformer.inference.volumes import probabilities as module
from medformer.inference.volumes.export import volume_exports
from medformer.inference.volumes.segmenter import VolumeSegmenter

AFFINE = np.array([[0, 0, 2.0, 3.0], [-1.0, 0, 0, 4.0], [0, 1.5, 0, 5.0], [0, 0, 0, 1]])
PLAN = VolumePlan(
    spacing=(2.0, 1.0, 1.5),
    intensity=(Intensity("ct", low=0.0, high=1.0, mean=0.0, std=1.0),),
    labels=((1, "liver"), (4, "tumor")),
    patch=(8, 8, 8),
    strides=((2, 2, 2),) * 3,
    kernel_sizes=((3, 3, 3),) * 3,
    batch_size=1,
)


class Fixed(nn.Module):
    """Probabilities (0.5 - x / 4, x / 4, 0.5) for a voxel of the value x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        part = self.scale * x
        return torch.cat([0.5 - part, part, torch.full_like(x, 0.5)], 1).clamp(min=1e-12).log()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image whose axes are not those of the network, with values in [0, 1]."""
    values = np.random.default_rng(0).random((9, 10, 11)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("form", ["nii", "npz"])
def test_maps_are_those_of_the_network_on_the_image_s_grid(
    image: Path, tmp_path: Path, form: module.Probabilities, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_disk:
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    # Two networks whose windows differ: their sums go through a buffer.
    other = VolumePlan(**{**PLAN.__dict__, "patch": (10, 8, 8)})
    segmenter = VolumeSegmenter([(Fixed(), PLAN), (Fixed(), other)], probabilities=form)
    made = segmenter.segment(image)
    assert made.probabilities is not None
    assert isinstance(made.probabilities, np.memmap) is on_disk
    with volume_exports(tmp_path / "out", ["liver", "tumor"], ["a"], probabilities=form) as export:
        row = export.add("a", made, image, images=[image])
    path = tmp_path / "out" / row["probabilities"]
    given = nib.load(image)
    expected = np.stack([given.get_fdata() / 4, np.full(given.shape, 0.5)], -1)
    if form == "nii":
        found = nib.load(path)
        assert np.array_equal(found.affine, given.affine)
        assert found.get_data_dtype() == np.uint8
        values = found.get_fdata()
        assert values.max() <= 1.0
        assert [volume.array.shape for volume in read_channels(path)] == [given.shape, given.shape]
        tolerance = 0.5 / 255 + 1e-3
    else:
        content = np.load(path)
        assert (list(content["labels"]), list(content["names"])) == ([1, 4], ["liver", "tumor"])
        assert np.array_equal(content["affine"], given.affine)
        values, tolerance = content["probabilities"].astype(np.float64), 1e-3
    assert values.shape == (*given.shape, 2)
    assert np.abs(values - expected).max() < tolerance


def test_without_being_asked_for_there_are_no_maps(image: Path, tmp_path: Path) -> None:
    made = VolumeSegmenter([(Fixed(), PLAN)]).segment(image)
    assert made.probabilities is None
    with volume_exports(tmp_path / "out", ["liver", "tumor"], ["a"]) as export:
        export.add("a", made, image, images=[image])
    assert not (tmp_path / "out" / "probabilities").exists()
    (row,) = read_csv(tmp_path / "out" / "volumes.csv")
    assert row["probabilities"] == ""
    # A resumed call that wants maps does not take the case for done; nor does a table from before there were any.
    table = tmp_path / "out" / "volumes.csv"
    table.write_text(table.read_text().replace(",probabilities", "").replace(".png,,,", ".png,,"))
    for form, done in (("nii", False), ("none", True)):
        kwargs = {"probabilities": form, "resume": True}
        again = volume_exports(tmp_path / "out", ["liver", "tumor"], ["a"], **kwargs)  # type: ignore[arg-type]
        assert again.done("a", [image]) is done


@pytest.mark.parametrize("form", ["nii", "npz"])
def test_maps_that_read_back_otherwise_are_not_kept(
    image: Path, tmp_path: Path, form: module.Probabilities, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = VolumeSegmenter([(Fixed(), PLAN)], probabilities=form).segment(image)
    real, calls = nifti_labels.map_planes, []

    def once_right(maps: np.ndarray) -> list[bytes]:
        calls.append(1)
        return list(real(maps)) if len(calls) == 1 else [bytes(len(piece)) for piece in real(maps)]

    monkeypatch.setattr(nifti_labels, "map_planes", once_right)
    monkeypatch.setattr(module, "map_planes", once_right)
    path = tmp_path / f"x{module.ENDINGS[form]}"
    assert made.probabilities is not None
    with pytest.raises(ResourceError, match="differ from what was written"):
        module.write_probabilities(path, made.probabilities, made.labels, image, made.geometry)
    assert not path.exists()
