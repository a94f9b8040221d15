"""Regions that overlap: read in the notation of nnU-Net, learned, written in order and scored, each by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan, read_volume_plan, write_volume_plan
from medformer.data.volumes.prepare.prepare_case import prepare_classes, prepare_image
from medformer.data.volumes.read.dataset_file import DatasetInfo, info_from_json, read_info, write_info
from medformer.data.volumes.read.regions import Region, membership
from medformer.errors import DataError
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.summary import summarize
from medformer.inference.volumes.segmenter import ValidationVolumeDice, VolumeSegmenter
from medformer.training.losses.segmentation import VOLUME_LOSSES, build_volume_loss

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
REGIONS = (Region("whole", (1, 2, 3), 1), Region("core", (2, 3), 2), Region("enhancing", (3,), 3))
LABELS = ((1, "label 1"), (2, "label 2"), (3, "enhancing"))
PLAN = VolumePlan(
    spacing=(1.0, 1.0, 1.0),
    intensity=(Intensity("ct", low=0.0, high=10.0, mean=0.0, std=1.0),),
    labels=LABELS,
    patch=(8, 8, 8),
    strides=((2, 2, 2),) * 3,
    kernel_sizes=((3, 3, 3),) * 3,
    batch_size=1,
    regions=REGIONS,
)


def described(folder: Path, **content: Any) -> Path:
    path = folder / "dataset.json"
    given = {"channel_names": {"0": "T1"}, "labels": BRATS, "regions_class_order": [1, 2, 3], **content}
    path.write_text(json.dumps(given))
    return path


def test_regions_are_read_kept_and_shown(tmp_path: Path) -> None:
    info = info_from_json(described(tmp_path))
    assert (info.labels, info.regions) == (LABELS, REGIONS)
    assert info.shown_labels.endswith("regions: whole (1, 2, 3), core (2, 3), enhancing (3)")
    write_info(tmp_path / "m.csv", info)
    assert read_info(tmp_path / "m.csv") == info
    write_volume_plan(tmp_path / "plan.json", PLAN)
    assert read_volume_plan(tmp_path / "plan.json") == PLAN
    plain = info_from_json(described(tmp_path, labels={"background": 0, "a": 1}))
    assert plain.regions == () and "regions" not in plain.shown_labels
    expected = [[False, True, True, True], [False, False, True, True], [False, False, False, True]]
    assert membership(REGIONS, [1, 2, 3]).tolist() == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"regions_class_order": None}, "regions_class_order is None; expected a list"),
        ({"regions_class_order": [1, 2]}, r"regions_class_order is \[1, 2\]"),
        ({"regions_class_order": [1, 2, 2]}, r"each once, such as"),
        ({"regions_class_order": [3, 1, 2]}, r"'core' is made of the labels \[2, 3\] and is written as 1"),
        ({"labels": {**BRATS, "core": [2, "x"]}}, r"'core' is \[2, 'x'\]; expected whole numbers"),
        ({"labels": {**BRATS, "core": []}}, "'core' has the labels"),
        ({"labels": {**BRATS, "ignore": 4}}, "'ignore' beside regions marks voxels"),
    ],
)
def test_wrong_regions_are_refused(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        info_from_json(described(tmp_path, **content))


@pytest.mark.parametrize("name", list(VOLUME_LOSSES))
def test_a_region_s_loss_is_that_of_its_own_sigmoid(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    classes = torch.randint(0, 4, (2, 1, 4, 4, 4), generator=generator)
    loss = build_volume_loss(name, membership(REGIONS, [1, 2, 3]))(logits, classes)
    truth = torch.cat([classes >= 1, classes >= 2, classes == 3], 1).double()
    p = logits.sigmoid()
    space = [0, 2, 3, 4]
    dice = (1 - (2 * (p * truth).sum(space) + 1e-5) / (p.sum(space) + truth.sum(space) + 1e-5)).mean()
    entropy = F.binary_cross_entropy(p, truth)
    right = torch.where(truth > 0, p, 1 - p)
    focal = -((1 - right) ** 2 * right.log()).mean()
    expected = {"dice_ce": dice + entropy, "dice": dice, "ce": entropy, "dice_focal": dice + focal}[name]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    loss.backward()
    assert logits.grad is not None and bool((logits.grad != 0).any())
    with pytest.raises(ValueError, match="expected 3 logits"):
        build_volume_loss(name, membership(REGIONS, [1, 2, 3]))(logits[:, :2], classes)
    with pytest.raises(ValueError, match="expected integers"):
        build_volume_loss(name, membership(REGIONS, [1, 2, 3]))(logits, classes.double())


class Coded(nn.Module):
    """Reads regions from a voxel: bit 0 is whole, bit 1 core, bit 2 enhancing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, x: Tensor) -> Tensor:
        whole = x.round().long()
        bits = torch.cat([(whole >> bit) & 1 for bit in range(3)], 1).float()
        return self.scale * (2 * bits - 1)


@pytest.fixture
def coded(tmp_path: Path) -> Case:
    """Voxels: whole alone, core in whole, all three, enhancing outside of the others, and core alone."""
    values = np.zeros((8, 8, 9), np.float32)
    values[1, 1, 1:5] = (0b001, 0b011, 0b111, 0b100)
    values[2, 2, 2] = 0b010
    labels = np.zeros(values.shape, np.uint8)
    labels[1, 1, 1:4] = (1, 2, 3)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "l.nii.gz")
    return Case("a", tmp_path / "a.nii.gz", tmp_path / "l.nii.gz")


@pytest.mark.parametrize("members", [1, 2])
def test_regions_are_written_in_their_order_and_measured_as_wholes(coded: Case, members: int) -> None:
    plans = [PLAN, replace(PLAN, patch=(8, 8, 9))][:members]
    segmenter = VolumeSegmenter([(Coded(), plan) for plan in plans], probabilities="npz", overlap=0.0)
    found = segmenter.segment(coded)
    expected = np.zeros((8, 8, 9), np.uint8)
    expected[1, 1, 1:5] = (1, 2, 3, 3)
    expected[2, 2, 2] = 2
    assert np.array_equal(found.array, expected)
    assert dict(found.labels) == {1: "whole", 2: "core", 3: "enhancing"}
    # A region is where the map has one of its values.
    assert found.volumes_ml == {1: pytest.approx(0.005), 2: pytest.approx(0.004), 3: pytest.approx(0.002)}
    assert set(found.confidence) == {1, 2, 3} and min(found.confidence.values()) > 0.99
    assert found.probabilities is not None
    assert found.probabilities[1, 1, 4].round().tolist() == [0, 0, 1]


def test_each_region_has_a_dice_of_its_own(coded: Case) -> None:
    found = VolumeSegmenter([(Coded(), PLAN)]).segment(coded).array
    truth = np.asarray(nib.load(coded.required_mask()).dataobj)
    regions = {region.name: region.values for region in REGIONS}
    row = volume_row("a", found, truth, labels=dict(LABELS), regions=regions, spacing=np.ones(3))
    # Predicted 5, 4 and 2 voxels; true 3, 2 and 1, all of them found.
    assert row["dice:whole"] == pytest.approx(2 * 3 / (5 + 3))
    assert row["dice:core"] == pytest.approx(2 * 2 / (4 + 2))
    assert row["dice:enhancing"] == pytest.approx(2 * 1 / (2 + 1))
    assert row["dice"] == pytest.approx((6 / 8 + 4 / 6 + 2 / 3) / 3)
    assert (row["truth_ml:whole"], row["pred_ml:whole"]) == (pytest.approx(0.003), pytest.approx(0.005))
    assert row["hd95_mm:enhancing"] == pytest.approx(1.0, abs=0.2)
    assert (row["truth_px"], row["pred_px"]) == (3, 5)
    assert list(summarize([row, {**row, "id": "b"}])["by_label"]) == ["whole", "core", "enhancing"]


def test_validation_counts_each_region(coded: Case) -> None:
    prepared = prepare_image(coded, PLAN)
    case = replace(prepared, classes=prepare_classes(coded, PLAN, prepared.source))
    score = ValidationVolumeDice([case], PLAN)(Coded())
    # Before regions are written over each other, 3 of 3, 2 of 3 and 1 of 2 predicted voxels are true; none is missed.
    assert score == pytest.approx((1 + 4 / 5 + 2 / 3) / 3)


def test_a_data_set_without_regions_says_nothing_of_them(tmp_path: Path) -> None:
    info = DatasetInfo(((1, "liver"),), ("CT",))
    write_info(tmp_path / "m.csv", info)
    assert "region" not in (tmp_path / "m.csv.dataset.json").read_text()
    assert (replace(PLAN, regions=()).outputs, PLAN.outputs) == (4, 3)
