"""What one pass over the files of a case finds, and that no file is opened twice."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medformer.data.cases import Case, image_hash
from medformer.data.volumes.inspect.describe import describe_volume, file_hashes, inspect_volumes
from medformer.data.volumes.inspect.facts import QUANTILES, CaseFacts, case_facts
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import DataError
from medformer.files import sha256

INFO = DatasetInfo(((1, "liver"), (2, "tumor"), (7, "cyst")), ("MRI",))


def write(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def make_case(folder: Path, name: str = "a", seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    image = rng.normal(10.0, 2.0, (6, 8, 10)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[1:3, 2:4, 2:6] = 1
    labels[3:5, 2:4, 2:5] = 2
    image[labels > 0] += 100.0
    return Case(name, write(folder / f"{name}.nii.gz", image), write(folder / f"{name}_l.nii.gz", labels), group=name)


def facts_of(case: Case, info: DatasetInfo = INFO, orientation: str = "RAS") -> CaseFacts:
    return case_facts(describe_volume(case), info, orientation)


def test_facts_of_a_case(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    image = np.asarray(nib.load(case.image).dataobj)
    labeled = np.asarray(nib.load(case.required_mask()).dataobj) > 0

    facts = facts_of(case)

    assert (facts.id, facts.shape, facts.spacing) == ("a", (6, 8, 10), (1.0, 2.0, 3.0))
    assert facts.labels == {1: 16, 2: 12, 7: 0}
    (channel,) = facts.channels
    assert (channel.minimum, channel.maximum) == (float(image.min()), float(image.max()))
    assert (channel.mean, channel.std) == (pytest.approx(image.mean()), pytest.approx(image.std()))
    assert channel.foreground_mean == pytest.approx(image[labeled].mean())
    assert channel.foreground_std == pytest.approx(image[labeled].std(), rel=1e-5)
    assert len(channel.foreground) == QUANTILES
    assert np.median(channel.foreground) == pytest.approx(np.median(image[labeled]), abs=0.1)


def test_axes_are_those_of_the_plan(tmp_path: Path) -> None:
    # Axis 0 of the file runs from inferior to superior.
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 3.0, 0], [1.5, 0, 0, 0], [0, 0, 0, 1]])
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32), affine), path)

    facts = facts_of(Case("a", path))

    assert facts.shape == (5, 6, 4)
    assert facts.spacing == (2.0, 3.0, 1.5)


def test_without_labels_the_foreground_is_what_exceeds_the_minimum(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 4), np.float32)
    image[1:3] = 5.0

    facts = facts_of(Case("a", write(tmp_path / "a.nii.gz", image)))

    assert facts.labels == {}
    assert set(facts.channels[0].foreground) == {5.0}


def test_a_constant_image_has_no_foreground(tmp_path: Path) -> None:
    facts = facts_of(Case("a", write(tmp_path / "a.nii.gz", np.ones((3, 3, 3), np.float32))))

    assert facts.channels[0].foreground == ()


def test_every_channel_is_described(tmp_path: Path) -> None:
    first, second = make_case(tmp_path, "a", 0), make_case(tmp_path, "b", 1)
    both = Case("a", first.image, first.mask, further=(second.image,))

    facts = facts_of(both)

    assert len(facts.channels) == 2
    assert facts.channels[0] == facts_of(first).channels[0]
    assert facts.channels[1].mean == facts_of(second).channels[0].mean


def test_files_of_other_shapes_have_no_facts(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    small = write(tmp_path / "small.nii.gz", np.zeros((6, 8, 9), np.uint8))
    for wrong in (Case("a", case.image, small), Case("a", case.image, case.mask, further=(small,))):
        with pytest.raises(DataError, match=r"'a' cannot be used: .*it has 6 x 8 x 9 voxels, .* has 6 x 8 x 10"):
            facts_of(wrong)


@pytest.fixture
def opened() -> Iterator[Counter[str]]:
    """How often each NIfTI file was opened since, by name."""
    counts: Counter[str] = Counter()
    active = True

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open" and str(arguments[0]).endswith((".nii", ".nii.gz")):
            counts[Path(arguments[0]).name] += 1

    sys.addaudithook(count)
    yield counts
    active = False


def test_each_file_is_opened_once_and_hashed_on_the_way(tmp_path: Path, opened: Counter[str]) -> None:
    first, second = make_case(tmp_path, "a", 0), make_case(tmp_path, "b", 1)
    both = Case("both", first.image, first.mask, further=(second.image,))
    flat = make_case(tmp_path, "c", 2)
    flat = replace(flat, image=write(tmp_path / "c.nii", np.asarray(nib.load(flat.image).dataobj)))
    opened.clear()

    records = {case.id: describe_volume(case, features=True) for case in (both, flat)}

    assert opened == dict.fromkeys(("a.nii.gz", "b.nii.gz", "a_l.nii.gz", "c.nii", "c_l.nii.gz"), 1)
    for case in (both, flat):
        assert records[case.id].hashes["file"] == image_hash(case.images)
        assert records[case.id].hashes["mask"] == sha256(case.required_mask())
    assert file_hashes(records) == {
        path: sha256(path) for case in (both, flat) for path in (*case.images, case.required_mask())
    }


def test_hashes_of_files_that_cannot_be_read(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    case.image.write_bytes(case.image.read_bytes()[:-50])

    record = describe_volume(case)

    assert [problem.reason for problem in record.problems] == ["corrupt"]
    assert record.hashes == {"file": image_hash(case.images), "mask": sha256(case.required_mask())}
    assert file_hashes({"a": record}) == {path: sha256(path) for path in (case.images[0], case.required_mask())}


def test_a_pair_of_header_and_voxels_and_a_folder_are_hashed_as_image_hash_does(tmp_path: Path) -> None:
    pair = tmp_path / "a.hdr"
    nib.save(nib.Nifti1Pair(np.random.default_rng(0).normal(size=(3, 4, 5)), np.eye(4)), pair)
    for path in (pair, pair.with_suffix(".img")):
        assert describe_volume(Case("a", path)).hashes["file"] == sha256(path)


def test_a_case_that_is_inspected_again_opens_nothing(tmp_path: Path, opened: Counter[str]) -> None:
    cases = [make_case(tmp_path, name, seed) for seed, name in enumerate("abc")]
    cache = tmp_path / "cache"

    first = inspect_volumes(cases[:2], cache=cache)
    opened.clear()
    second = inspect_volumes(cases, cache=cache)

    assert opened == {"c.nii.gz": 1, "c_l.nii.gz": 1}
    for name in "ab":
        assert case_facts(second[name], INFO) == case_facts(first[name], INFO)
        assert np.array_equal(second[name].array("descriptor"), first[name].array("descriptor"))
    assert case_facts(second["c"], INFO) == facts_of(cases[2])


def test_facts_depend_on_labels_and_orientation_but_records_do_not(tmp_path: Path) -> None:
    record = describe_volume(make_case(tmp_path))

    assert case_facts(record, DatasetInfo(((2, "tumor"),), ("MRI",))).labels == {2: 12}
    assert case_facts(record, INFO, "SAR").shape == (10, 8, 6)
    assert case_facts(record, INFO, "SAR").spacing == (3.0, 2.0, 1.0)


@pytest.mark.real_data
def test_the_hippocampus_is_described(medformer_data: Path) -> None:
    folder = medformer_data / "volumes" / "Task04_Hippocampus"
    images = sorted((folder / "imagesTr").glob("hippocampus*.nii.gz"))[:5]
    cases = [Case(image.name, image, folder / "labelsTr" / image.name) for image in images]

    info = DatasetInfo(((1, "Anterior"), (2, "Posterior")), ("MRI",))
    found = [case_facts(record, info) for record in inspect_volumes(cases).values()]

    assert all(facts.spacing == (1.0, 1.0, 1.0) for facts in found)
    assert all(500 < facts.labels[1] < 4000 and 500 < facts.labels[2] < 4000 for facts in found)
