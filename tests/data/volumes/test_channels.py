"""Several channels in one 4-D file are the same case as a file for each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medformer.data.cases import Case
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import describe_volume, inspect_volumes
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.prepare_case import check_image, prepare_image
from medformer.data.volumes.read.layouts import info_from_records, scan_volumes, with_hashes
from medformer.errors import DataError
from medformer.imaging.nifti_labels import write_labels
from tests.data.volumes.test_layouts import described
from tests.data.volumes.test_new_volumes import listed

AFFINE = np.array([[-1.5, 0, 0, 3.0], [0, 2.0, 0, -4.0], [0, 0, 1.0, 5.0], [0, 0, 0, 1]])
PLAN = VolumePlan(
    spacing=(1.5, 2.0, 1.0),
    intensity=(Intensity(), Intensity("ct", low=0.0, high=9.0, mean=4.0, std=2.0), Intensity()),
    labels=((1, "edema"),),
    patch=(8, 8, 8),
    strides=((2, 2, 2),) * 4,
    kernel_sizes=((3, 3, 3),) * 4,
    batch_size=1,
)


def scans(folder: Path, name: str, channels: int = 3, seed: int = 0) -> tuple[Case, Case]:
    """One case as one file, and as a file for each channel."""
    voxels = np.random.default_rng(seed).integers(0, 10, (9, 8, 7, channels)).astype(np.int16)
    labels = np.zeros(voxels.shape[:3], np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    for part in ("imagesTr", "labelsTr", "apart"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    image, mask = folder / "imagesTr" / f"{name}.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), image)
    nib.save(nib.Nifti1Image(labels, AFFINE), mask)
    apart = [folder / "apart" / f"{name}_{number:04}.nii.gz" for number in range(channels)]
    for number, path in enumerate(apart):
        nib.save(nib.Nifti1Image(voxels[..., number], AFFINE), path)
    return Case(name, image, mask, group=name), Case(name, apart[0], mask, group=name, further=tuple(apart[1:]))


def test_the_decathlon_s_files_of_several_channels_are_cases(tmp_path: Path) -> None:
    for seed, name in enumerate(("BRATS_001", "BRATS_002")):
        scans(tmp_path, name, seed=seed)
    described(tmp_path, modality={"0": "FLAIR", "1": "T1w", "2": "T2w"}, labels={"0": "background", "1": "edema"})
    found = scan_volumes(tmp_path, layout="msd")
    assert found.info is not None
    assert found.info.channels == ("FLAIR", "T1w", "T2w")
    assert [case.id for case in found.cases] == ["BRATS_001", "BRATS_002"]
    write_manifest(tmp_path / "m.csv", with_hashes(found.cases))
    again = read_manifest(tmp_path / "m.csv").cases
    records = inspect_volumes(again)
    assert [problem for problem in volume_problems(again, records, found.info) if problem.severity == "error"] == []


def test_one_file_is_described_and_prepared_as_files_apart_are(tmp_path: Path) -> None:
    whole, apart = scans(tmp_path, "a")
    one, other = describe_volume(whole), describe_volume(apart)
    assert one.facts["channels"] == other.facts["channels"]
    assert (one.hashes["voxels"], one.facts["shape"]) == (other.hashes["voxels"], [9, 8, 7])
    assert np.array_equal(one.arrays["descriptor"], other.arrays["descriptor"])
    assert one.facts["files"][str(whole.image)] == one.hashes["file"]
    assert np.array_equal(prepare_image(whole, PLAN).image, prepare_image(apart, PLAN).image)
    assert check_image(whole, PLAN) == []


def test_a_label_map_on_a_file_of_several_channels_has_its_three_axes(tmp_path: Path) -> None:
    whole, _ = scans(tmp_path, "a")
    labels = np.zeros((9, 8, 7), np.uint8)
    labels[1, 2, 3] = 1
    write_labels(tmp_path / "out.nii.gz", labels, whole.required_image())
    written = nib.load(tmp_path / "out.nii.gz")
    assert written.shape == (9, 8, 7)
    assert np.array_equal(written.affine, AFFINE)
    assert np.array_equal(np.asarray(written.dataobj), labels)


def test_another_number_of_channels_is_named(tmp_path: Path) -> None:
    cases = [
        scans(tmp_path, name, channels, seed)[0]
        for seed, (name, channels) in enumerate(zip("abc", (3, 2, 3), strict=True))
    ]
    records = inspect_volumes(cases)
    info = info_from_records(cases, records)
    assert info.channels == ("channel 1", "channel 2", "channel 3")
    wrong = [one for one in volume_problems(cases, records, info) if one.reason == "wrong-channels"]
    assert [(one.case_id, one.detail) for one in wrong] == [
        ("b", "it has 2; expected 3 (channel 1, channel 2, channel 3)")
    ]
    with pytest.raises(DataError, match=r"Case 'b' has 2 channels \(b.nii.gz\); expected 3"):
        prepare_image(cases[1], PLAN)
    with pytest.raises(DataError, match=r"Case 'c' has 3 channels; |Case 'c' has 3 channels \(c.nii.gz\); expected 1"):
        prepare_image(cases[2], replace(PLAN, intensity=(Intensity(),)))


def test_equal_and_constant_channels_are_found_in_one_file(tmp_path: Path) -> None:
    whole, _ = scans(tmp_path, "a")
    voxels = np.asarray(nib.load(whole.image).dataobj).copy()
    voxels[..., 2] = 7
    nib.save(nib.Nifti1Image(voxels, AFFINE), whole.image)
    assert [(one.reason, one.detail) for one in describe_volume(whole).problems] == [("constant-channel", "channel 3")]
    voxels[..., 2] = voxels[..., 0]
    nib.save(nib.Nifti1Image(voxels, AFFINE), whole.image)
    assert [one.reason for one in describe_volume(whole).problems] == ["wrong-channels"]
    with pytest.raises(DataError, match=r"channel 1 and .*channel 3 hold the same voxels"):
        check_image(whole, PLAN)


def test_new_volumes_may_have_their_channels_in_one_file_or_apart(tmp_path: Path) -> None:
    scans(tmp_path, "new")
    assert listed(tmp_path / "imagesTr", channels=3) == ({"new": ["new.nii.gz"]}, [])
    apart = [f"new_{number:04}.nii.gz" for number in range(3)]
    assert listed(tmp_path / "apart", channels=3) == ({"new": apart}, [])
    with pytest.raises(DataError, match="are of one case by their names"):
        listed(tmp_path / "imagesTr", tmp_path / "apart", channels=3)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE), tmp_path / "imagesTr" / "single.nii.gz")
    found, problems = listed(tmp_path / "imagesTr", channels=3)
    assert list(found) == ["new"]
    assert [(one.case_id, one.reason) for one in problems] == [("single", "wrong-channels")]
