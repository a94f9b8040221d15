"""Facts of cases: what is read, how it is turned, and that nothing is read twice."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medformer.data.manifest import Case
from medformer.data.volumes.inspect import fingerprint as module
from medformer.data.volumes.inspect.facts import QUANTILES, Fingerprint, facts_from_json
from medformer.data.volumes.inspect.fingerprint import case_facts, fingerprint
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import DataError

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


def test_facts_of_a_case(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    image = np.asarray(nib.load(case.image).dataobj)
    labeled = np.asarray(nib.load(case.required_mask()).dataobj) > 0

    facts = case_facts(case, INFO)

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

    facts = case_facts(Case("a", path), INFO, "RAS")

    assert facts.shape == (5, 6, 4)
    assert facts.spacing == (2.0, 3.0, 1.5)


def test_without_labels_the_foreground_is_what_exceeds_the_minimum(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 4), np.float32)
    image[1:3] = 5.0

    facts = case_facts(Case("a", write(tmp_path / "a.nii.gz", image)), INFO)

    assert facts.labels == {}
    assert set(facts.channels[0].foreground) == {5.0}


def test_a_constant_image_has_no_foreground(tmp_path: Path) -> None:
    facts = case_facts(Case("a", write(tmp_path / "a.nii.gz", np.ones((3, 3, 3), np.float32))), INFO)

    assert facts.channels[0].foreground == ()


def test_every_channel_is_described(tmp_path: Path) -> None:
    first, second = make_case(tmp_path, "a", 0), make_case(tmp_path, "b", 1)
    both = Case("a", first.image, first.mask, further=(second.image,))

    facts = case_facts(both, INFO)

    assert len(facts.channels) == 2
    assert facts.channels[0] == case_facts(first, INFO).channels[0]
    assert facts.channels[1].mean == case_facts(second, INFO).channels[0].mean


def test_files_of_other_shapes_are_refused(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    small = write(tmp_path / "small.nii.gz", np.zeros((6, 8, 9), np.uint8))
    for wrong in (Case("a", case.image, small), Case("a", case.image, case.mask, further=(small,))):
        with pytest.raises(
            DataError, match=r"Case 'a': .*small\.nii\.gz has \(6, 8, 9\) voxels; expected \(6, 8, 10\)"
        ):
            case_facts(wrong, INFO)


def test_facts_survive_a_file_and_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [make_case(tmp_path, name, seed) for seed, name in enumerate("abc")]
    cache = tmp_path / "facts.json"
    read: list[Path] = []
    original = module.read_volume
    monkeypatch.setattr(module, "read_volume", lambda path: (read.append(path), original(path))[1])

    first = fingerprint(cases[:2], INFO, cache=cache)
    second = fingerprint(cases, INFO, cache=cache)

    assert second.of(["a", "b"]) == first
    assert [path.name for path in read] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


@pytest.mark.parametrize("change", ["file", "labels", "orientation", "damage"])
def test_what_changed_is_read_again(tmp_path: Path, change: str) -> None:
    case = make_case(tmp_path)
    cache = tmp_path / "facts.json"
    before = fingerprint([case], INFO, cache=cache)
    info, orientation = INFO, "RAS"
    if change == "file":
        write(case.image, np.zeros((6, 8, 10), np.float32))
    elif change == "labels":
        info = DatasetInfo(((1, "liver"),), ("MRI",))
    elif change == "orientation":
        orientation = "SAR"
    else:
        cache.write_text('{"format": "medformer-volume-facts/1", "cases": {"', "utf-8")

    after = fingerprint([case], info, orientation=orientation, cache=cache)

    assert after == Fingerprint(orientation, (case_facts(case, info, orientation),))
    assert (after == before) == (change == "damage")


def test_facts_come_back_from_json(tmp_path: Path) -> None:
    found = fingerprint([make_case(tmp_path)], INFO)

    assert facts_from_json(found.to_json()["cases"][0]) == found.cases[0]


@pytest.mark.real_data
def test_the_hippocampus_is_described(medformer_data: Path) -> None:
    folder = medformer_data / "volumes" / "Task04_Hippocampus"
    images = sorted((folder / "imagesTr").glob("hippocampus*.nii.gz"))[:5]
    cases = [Case(image.name, image, folder / "labelsTr" / image.name) for image in images]

    found = fingerprint(cases, DatasetInfo(((1, "Anterior"), (2, "Posterior")), ("MRI",)))

    assert all(facts.spacing == (1.0, 1.0, 1.0) for facts in found.cases)
    assert all(500 < facts.labels[1] < 4000 and 500 < facts.labels[2] < 4000 for facts in found.cases)
