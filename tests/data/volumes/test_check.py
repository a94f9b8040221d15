"""Every kind of bad volume is found, with its code and its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medformer.data.cases import Case, image_hash
from medformer.data.problems import Problem, quarantine
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import describe_volume, inspect_volumes
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.data.volumes.read.layouts import scan_volumes

MakeCase = Callable[..., Case]

INFO = DatasetInfo(((1, "liver"),), ("CT",))
SHAPE = (8, 9, 10)


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels(shape: tuple[int, ...] = SHAPE, value: int = 1, dtype: type = np.uint8) -> Any:
    area = np.zeros(shape, dtype)
    area[2:4, 2:5, : shape[2] // 2] = value
    return area


def problems_of(cases: Sequence[Case], info: DatasetInfo = INFO, target: Any = "segmentation") -> list[Problem]:
    records = inspect_volumes(cases, masks=target == "segmentation")
    return volume_problems(cases, records, info, target=target)


def codes(*cases: Case, info: DatasetInfo = INFO, target: Any = "segmentation") -> list[str]:
    return [problem.reason for problem in problems_of(cases, info, target)]


def test_a_good_case_has_no_problem(make_case: MakeCase) -> None:
    good = make_case("a", image(), labels())
    assert codes(replace(good, sha256=image_hash(good.images))) == []


def test_two_positions_in_one_header_are_said_with_their_distance(make_case: MakeCase) -> None:
    case = make_case("a", image(), labels())
    file = nib.load(case.image)
    other = file.affine.copy()
    other[:3, 3] += 30
    file.set_sform(file.affine, 2)
    file.set_qform(other, 1)
    file.to_filename(case.image)
    (found,) = problems_of([case])
    assert (found.case_id, found.reason, found.severity) == ("a", "forms-differ", "warning")
    assert "sform (code 2), which is used" in found.detail and "52 mm apart" in found.detail
    # Rounding is not mentioned, and neither is a form that is not set.
    file.set_qform(file.affine + np.eye(4) * [1e-5, 1e-5, 1e-5, 0], 1)
    file.to_filename(case.image)
    assert codes(case) == []
    file.header["qform_code"], file.header["pixdim"][1:4] = 0, 2.0
    file.to_filename(case.image)
    header = nib.load(case.image).header
    assert (int(header["qform_code"]), float(header["pixdim"][1])) == (0, 2.0)
    (found,) = problems_of([case])
    assert found.reason == "forms-differ" and "pixdim states 2 x 2 x 2 mm" in found.detail


def test_label_maps_that_are_all_empty_and_a_single_class_leave_nothing_to_learn(make_case: MakeCase) -> None:
    empty = [make_case(name, image(seed), labels(value=0)) for seed, name in enumerate("ab")]
    found = problems_of(empty)
    assert [(problem.reason, problem.severity) for problem in found][-1] == ("no-labels-at-all", "error")
    assert "all 2 label maps are empty" in found[-1].detail
    assert "no-labels-at-all" not in codes(*empty, make_case("c", image(3), labels()))
    classes = [replace(case, label=1) for case in empty]
    assert codes(*classes, target="classification")[-1] == "no-labels-at-all"
    assert codes(replace(classes[0], label=0), classes[1], target="classification") == []


def test_missing_and_changed_files(make_case: MakeCase, tmp_path: Path) -> None:
    good = make_case("a", image(), labels())
    assert codes(replace(good, image=tmp_path / "gone.nii.gz")) == ["missing-image"]
    assert codes(replace(good, mask=tmp_path / "gone.nii.gz")) == ["missing-mask"]
    assert codes(replace(good, mask=None)) == ["missing-mask"]
    without = [replace(make_case(name, image(seed)), mask=None) for seed, name in enumerate("bcd", 2)]
    (found,) = problems_of(without)
    assert (found.case_id, found.reason) == ("all cases", "missing-mask"), "one thing is wrong, not three"
    assert "--task classification" in found.detail
    assert codes(good, *without) == ["missing-mask"] * 3
    (found,) = problems_of(without, target="classification")
    assert (found.case_id, found.reason) == ("all cases", "no-class") and "a column `label`" in found.detail
    assert codes(replace(good, label=1), *without, target="classification")[:3] == ["no-class"] * 3
    assert codes(replace(good, sha256="0" * 64)) == ["changed"]
    assert codes(replace(good, covariates={"mask_sha256": "0" * 64})) == ["changed"]
    assert codes(replace(good, mask=good.image)) == ["mask-is-image"]


def test_a_label_of_one_case_alone(make_case: MakeCase) -> None:
    """Such as 255 for the same thing that all other cases call 1."""
    cases = [make_case(name, image(seed), labels(value=1 if seed else 2)) for seed, name in enumerate("abc")]
    info = DatasetInfo(((1, "liver"), (2, "label 2")), ("CT",))
    (found,) = problems_of(cases, info)
    assert (found.case_id, found.reason, found.severity) == ("a", "label-seen-once", "warning")
    assert "of 3 label maps, only this one has label 2" in found.detail
    assert problems_of(cases[:2], info) == []


def test_truncated_files_name_themselves(make_case: MakeCase) -> None:
    bad = make_case("a", image(), labels())
    assert bad.mask is not None
    for path in (bad.image, bad.mask):
        path.write_bytes(path.read_bytes()[:-40])
    problems = problems_of([bad])
    assert [(problem.reason, problem.path) for problem in problems] == [
        ("corrupt", str(bad.image)),
        ("corrupt", str(bad.mask)),
    ]
    assert quarantine(problems) == ["a"]


def shifted(mm: float) -> Any:
    affine = np.eye(4)
    affine[0, 3] = mm
    return affine


@pytest.mark.parametrize(
    ("affine", "expected"),
    [
        (shifted(1e-4), []),
        (shifted(0.05), ["affine-rounding"]),
        (shifted(0.2), ["affine-mismatch"]),
        (np.diag([1.02, 1.0, 1.0, 1.0]), ["affine-mismatch"]),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), ["orientation-mismatch"]),
    ],
)
def test_where_the_label_map_lies(make_case: MakeCase, affine: Any, expected: list[str]) -> None:
    assert codes(make_case("a", image(), labels(), label_affine=affine)) == expected


def test_a_reversed_axis_of_the_same_box_is_no_problem_and_of_another_is_said(make_case: MakeCase) -> None:
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = 7.0  # eight voxels from 7 to 0
    assert codes(make_case("a", image(), labels()[::-1], label_affine=mirrored)) == []
    case = make_case("a", image(), labels(), label_affine=np.diag([-1.0, 1.0, 1.0, 1.0]))
    (problem,) = describe_volume(case).problems
    assert "point to LAS, those of the image to RAS" in problem.detail and "7 voxels" in problem.detail
    stored = nib.load(case.required_mask())
    stored.set_sform(None, 0)
    stored.set_qform(None, 0)
    stored.to_filename(case.required_mask())
    (problem,) = describe_volume(case).problems
    assert problem.reason == "orientation-mismatch" and "neither sform nor qform" in problem.detail


def test_the_limit_counts_in_voxels(make_case: MakeCase) -> None:
    coarse = np.diag([4.0, 4.0, 4.0, 1.0])
    moved = coarse + (shifted(0.2) - np.eye(4))
    assert codes(make_case("a", image(), labels(), affine=coarse, label_affine=moved)) == ["affine-rounding"]


def test_sizes(make_case: MakeCase) -> None:
    assert codes(make_case("a", image(), labels((8, 9, 11)))) == ["size-mismatch"]


def test_label_values(make_case: MakeCase) -> None:
    assert codes(make_case("a", image(), labels(value=3))) == ["undeclared-label", "label-never-seen"]
    assert codes(make_case("b", image(), labels(value=-1, dtype=np.int16))) == ["undeclared-label", "label-never-seen"]
    assert codes(make_case("c", image(), labels() * np.float32(1.0))) == []
    assert codes(make_case("d", image(), labels() * np.float32(0.5))) == ["fractional-labels"]
    assert codes(make_case("e", image(), labels() * 0)) == ["empty-mask", "label-never-seen"]


def test_values_of_the_image(make_case: MakeCase) -> None:
    holes = image()
    holes[0, 0, :2] = np.nan
    holes[1, 0, 0] = np.inf
    problem = problems_of([make_case("a", holes, labels())])[0]
    assert (problem.reason, problem.detail) == ("not-finite", "3 of 720 voxels are NaN or infinite; expected none")
    assert codes(make_case("b", image() * 0 + 5, labels())) == ["constant-image"]


def test_a_single_slice_is_said(make_case: MakeCase) -> None:
    area = np.zeros((8, 9, 1), np.uint8)
    area[2:4, 2:4] = 1
    assert codes(make_case("a", image(shape=(8, 9, 1)), area)) == ["one-slice"]


def test_a_file_that_does_not_say_where_it_lies(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case("a", image(), labels())
    lost = nib.Nifti1Image(image(), None)
    lost.header["sform_code"] = lost.header["qform_code"] = 0
    lost.to_filename(tmp_path / "lost.nii.gz")
    assert "no-affine" in codes(replace(case, image=tmp_path / "lost.nii.gz"))


def test_channels(make_case: MakeCase) -> None:
    info = replace(INFO, channels=("T1", "T2"))
    assert codes(make_case("a", [image(1), image(2)], labels()), info=info) == []
    assert codes(make_case("b", image(1), labels()), info=info) == ["wrong-channels"]
    assert codes(make_case("c", [image(1), image(1)], labels()), info=info) == ["wrong-channels"]
    assert codes(make_case("d", [image(1), image(2, (8, 9, 11))], labels()), info=info) == ["size-mismatch"]
    assert codes(make_case("e", [image(1), image(1) * 0], labels()), info=info) == ["constant-channel"]


def test_what_only_the_whole_set_shows(make_case: MakeCase) -> None:
    cases = [make_case(f"c{number}", image(number), labels()) for number in range(3)]
    thick = make_case("thick", image(3), labels(), affine=np.diag([1.0, 1.0, 4.0, 1.0]))
    bright = make_case("bright", image(4) * 1e5, labels())
    again = make_case("again", image(0), labels(), affine=shifted(30.0))
    copy = replace(cases[1], id="copy")
    problems = problems_of([*cases, thick, bright, again, copy], replace(INFO, labels=((1, "liver"), (2, "tumor"))))
    assert [(problem.case_id, problem.reason) for problem in problems] == [
        ("thick", "odd-spacing"),
        ("all cases", "intensity-scale"),
        ("all cases", "label-never-seen"),
        ("again", "duplicate-voxels"),
        ("copy", "duplicate-file"),
    ]
    assert quarantine(problems) == []


def test_spacing_is_compared_along_anatomical_axes(make_case: MakeCase) -> None:
    turned = np.array([[0, 0, 4.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    straight = [make_case(f"c{n}", image(n), labels(), affine=np.diag([4.0, 1, 1, 1])) for n in range(2)]
    assert codes(*straight, make_case("turned", image(5), labels(), affine=turned)) == []


def test_classification_needs_classes_and_no_label_maps(make_case: MakeCase) -> None:
    info = replace(INFO, labels=())
    case = make_case("a", image())
    assert codes(replace(case, label=1), info=info, target="classification") == []
    for text in ("", "2", "yes"):
        assert codes(replace(case, covariates={"label": text}), info=info, target="classification") == ["no-class"]


@pytest.mark.real_data
def test_the_decathlon_hippocampus(medformer_data: Path) -> None:
    found = scan_volumes(medformer_data / "volumes" / "Task04_Hippocampus")
    assert found.info is not None
    assert [problem.reason for problem in problems_of(found.cases, found.info)] == ["intensity-scale"]


def test_an_image_is_no_label_map(make_case: MakeCase) -> None:
    noise = np.random.default_rng(3).integers(0, 200, SHAPE).astype(np.uint8)
    regions = np.repeat(np.repeat(np.arange(1, 31, dtype=np.uint8).reshape(5, 6)[:, :, None], 4, 0), 4, 1)
    swapped = make_case("swapped", image(1), noise)
    atlas = make_case("atlas", image(2, (20, 24, 5)), np.repeat(regions, 5, 2))
    info = DatasetInfo(tuple((value, f"label {value}") for value in range(1, 200)), ("CT",))
    found = [(problem.case_id, problem.reason) for problem in problems_of([swapped, atlas], info)]
    assert ("swapped", "mask-is-image") in found
    assert ("atlas", "mask-is-image") not in found
    assert ("atlas", "full-mask") in found
