from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from prepared_case import prepare_case
from scipy.ndimage import center_of_mass

from medformer.data.cases import Case
from medformer.data.volumes.inspect.describe import describe_volume
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare.prepare_case import (
    HeldScan,
    check_image,
    classes_of,
    prepare_image,
    scale_intensity,
)
from medformer.errors import DataError
from medformer.imaging.geometry import Geometry, Volume

MakeCase = Callable[..., Case]

PLAN = VolumePlan(
    spacing=(1.0, 1.0, 1.0),
    intensity=(Intensity(),),
    labels=((3, "Head"), (7, "Tail")),
    patch=(16, 16, 16),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    batch_size=2,
)


def _scan(size: tuple[int, int, int] = (12, 14, 10)) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).normal(100.0, 20.0, size).astype(np.float32)
    labels = np.zeros(size, np.uint8)
    labels[2:5, 3:8, 2:7] = 3
    labels[7:10, 6:11, 3:8] = 7
    return image, labels


def test_a_case_on_the_plans_grid_keeps_its_voxels(make_case: MakeCase) -> None:
    image, labels = _scan()
    prepared = prepare_case(make_case("one", image, labels), PLAN)
    assert prepared.image.shape == (1, 12, 14, 10) and prepared.image.dtype == np.float32
    assert np.allclose(prepared.image[0], (image - image.mean()) / image.std(), atol=1e-4)
    assert prepared.classes is not None and prepared.classes.dtype == np.uint8
    assert np.array_equal(prepared.classes, np.select([labels == 3, labels == 7], [1, 2]))
    assert np.array_equal(prepared.affine, np.eye(4)) and prepared.shape == (12, 14, 10)
    assert prepared.lowest == pytest.approx(prepared.image.min())


def test_any_orientation_becomes_the_plans(make_case: MakeCase) -> None:
    """The same head, stored with other axes, is the same case, voxel for voxel."""
    image, labels = _scan()
    straight = prepare_case(make_case("straight", image, labels), PLAN)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("PIL"))
    stored, label_map = (nib.Nifti1Image(array, np.eye(4)).as_reoriented(turn) for array in (image, labels))
    turned = prepare_case(
        make_case("turned", np.asarray(stored.dataobj), np.asarray(label_map.dataobj), affine=stored.affine), PLAN
    )
    assert turned.source.shape == (14, 10, 12) and turned.source.axcodes == "PIL"
    assert np.allclose(turned.image, straight.image, atol=1e-5) and np.allclose(turned.affine, straight.affine)
    assert straight.classes is not None and np.array_equal(turned.classes, straight.classes)


def test_resampling_keeps_labels_where_they_are_in_space(make_case: MakeCase) -> None:
    image, labels = _scan((24, 28, 10))
    labels[2:12, 4:14, 1:5] = 3
    labels[12:22, 14:26, 4:9] = 7
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    affine[:3, 3] = (-20.0, 7.0, 11.0)
    image[labels == 3] += 400.0
    prepared = prepare_case(make_case("flat", image, labels, affine=affine), PLAN)
    assert prepared.shape == (12, 14, 30) and prepared.classes is not None
    for value, found in ((3, prepared.classes == 1), (7, prepared.classes == 2)):
        before = affine @ [*center_of_mass(labels == value), 1.0]
        after = prepared.affine @ [*center_of_mass(found), 1.0]
        assert np.allclose(before, after, atol=0.5)
        assert found.sum() == pytest.approx((labels == value).sum() * 0.75, rel=0.2)
    assert prepared.image[0][prepared.classes == 1].mean() > 2.0


def test_channels_are_stacked_and_scaled_by_their_own_scheme(make_case: MakeCase) -> None:
    image, labels = _scan()
    hounsfield = image * 10.0 - 1000.0
    scheme = Intensity("ct", low=-150.0, high=250.0, mean=20.0, std=50.0)
    plan = replace(PLAN, intensity=(scheme, Intensity()))
    prepared = prepare_case(make_case("two", (hounsfield, image), labels), plan)
    assert np.allclose(prepared.image[0], (np.clip(hounsfield, -150, 250) - 20.0) / 50.0, atol=1e-4)
    assert prepared.image[1].mean() == pytest.approx(0.0, abs=1e-4) and prepared.lowest.shape == (2,)


def test_an_image_needs_no_labels(make_case: MakeCase) -> None:
    case = make_case("plain", _scan()[0])
    prepared = prepare_image(case, PLAN)
    assert prepared.classes is None
    assert np.array_equal(prepared.image, prepare_image([case.image], PLAN).image)
    with pytest.raises(DataError, match=r"plain.*no mask"):
        prepare_case(case, PLAN)


def test_a_missing_channel_is_named(make_case: MakeCase) -> None:
    plan = replace(PLAN, intensity=(Intensity(), Intensity()))
    with pytest.raises(DataError, match=r"'short' has 1 channel \(short_0.nii.gz\).*expected 2"):
        prepare_image(make_case("short", _scan()[0]), plan)


def test_files_on_different_grids_are_refused(make_case: MakeCase) -> None:
    image, labels = _scan()
    moved = np.eye(4)
    moved[0, 3] = 5.0
    with pytest.raises(DataError, match=r"Case 'moved'.*moved_labels.nii.gz.*5 mm"):
        prepare_case(make_case("moved", image, labels, label_affine=moved), PLAN)
    with pytest.raises(DataError, match=r"Case 'cut'.*cut_labels.nii.gz.*shape"):
        prepare_case(make_case("cut", image, labels[:-1]), PLAN)
    plan = replace(PLAN, intensity=(Intensity(), Intensity()))
    with pytest.raises(DataError, match=r"Case 'uneven'.*uneven_1.nii.gz.*shape"):
        prepare_image(make_case("uneven", (image, image[:, :-2])), plan)


def test_files_whose_axes_run_in_other_directions_are_turned(make_case: MakeCase) -> None:
    """As SimpleITK (LPS) and dcm2niix (LAS) write what was drawn on one series; channels among themselves as well."""
    image, labels = _scan()
    affine = np.array([[-1.0, 0.0, 0.0, 12.0], [0.0, -0.8, 0.0, 11.0], [0.0, 0.0, 2.0, -20.0], [0.0, 0.0, 0.0, 1.0]])
    plan = replace(PLAN, intensity=(Intensity(), Intensity()))
    straight = prepare_case(make_case("straight", (image, image + 3 * labels), labels, affine=affine), plan)
    for codes in ("LAS", "RAS", "SPL"):
        case = make_case("turned", (image, image + 3 * labels), labels, affine=affine)
        for path in (*case.further, case.required_mask()):
            stored = nib.load(path)
            turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
            stored.as_reoriented(turn).to_filename(path)
        turned = prepare_case(case, plan)
        assert np.array_equal(turned.image, straight.image)
        assert np.array_equal(turned.classes, straight.classes)
        found = describe_volume(case)
        assert found.problems == ()
        again = describe_volume(make_case("turned", (image, image + 3 * labels), labels, affine=affine))
        assert [found.facts[name] for name in ("channels", "labels")] == [
            again.facts[name] for name in ("channels", "labels")
        ]


def test_a_hundredth_of_a_voxel_is_no_other_grid(make_case: MakeCase) -> None:
    image, labels = _scan()
    nearly = np.eye(4)
    nearly[1, 3] = 0.01
    assert prepare_case(make_case("near", image, labels, label_affine=nearly), PLAN).classes is not None


@pytest.mark.parametrize(("value", "dtype"), [(5, np.uint8), (-3, np.int16), (60000, np.uint16)])
def test_an_undeclared_label_is_named(make_case: MakeCase, value: int, dtype: type) -> None:
    image, labels = _scan()
    labels = labels.astype(dtype)
    labels[0, 0, 0] = value
    with pytest.raises(
        DataError, match=rf"Case 'odd'.*not declared: {value}; expected 0 \(background\), 3 Head, 7 Tail"
    ):
        prepare_case(make_case("odd", image, labels), PLAN)


def test_many_labels_need_sixteen_bits() -> None:
    known = [(value, str(value)) for value in range(1, 301)]
    classes = classes_of(np.array([[[0, 1, 300]]], np.uint16), known, "it")
    assert classes.dtype == np.uint16 and classes.tolist() == [[[0, 1, 300]]]


def test_an_image_of_one_value_becomes_zero() -> None:
    for value in (0.0, 1e6, -1024.3):
        scaled = scale_intensity(np.full((5, 6, 7), value, np.float32), Intensity())
        assert np.abs(scaled).max() <= 1e-6 * abs(value)


def test_one_slice_and_tiny_volumes_are_prepared(make_case: MakeCase) -> None:
    image, labels = _scan()
    prepared = prepare_case(
        make_case("slice", image[:, :, 4:5], labels[:, :, 4:5], affine=np.diag([2.0, 1.0, 0.2, 1.0])), PLAN
    )
    assert prepared.shape == (24, 14, 1) and np.isfinite(prepared.image).all()


@pytest.mark.real_data
def test_real_scans_lose_no_label(medformer_data: Path) -> None:
    folder = medformer_data / "volumes" / "Task04_Hippocampus"
    plan = replace(PLAN, labels=((1, "Anterior"), (2, "Posterior")), spacing=(0.8, 1.2, 1.0))
    for image in sorted((folder / "imagesTr").glob("hippocampus_*.nii.gz"))[:5]:
        case = Case(id=image.stem, image=image, mask=folder / "labelsTr" / image.name, group=image.stem)
        prepared = prepare_case(case, plan)
        assert prepared.classes is not None and prepared.image.std() == pytest.approx(1.0, abs=0.1)
        stored = np.asarray(nib.load(case.mask).dataobj)
        for label in (1, 2):
            milliliters = (prepared.classes == label).sum() * abs(np.linalg.det(prepared.affine[:3, :3])) / 1000
            assert milliliters == pytest.approx((stored == label).sum() / 1000, rel=0.05)


@pytest.mark.real_data
def test_a_dicom_series_is_prepared_like_a_file(medformer_data: Path) -> None:
    pytest.importorskip("highdicom")
    series = sorted((medformer_data / "volumes" / "hippocampus_dicom").glob("*/*"))[0]
    prepared = prepare_image([series], PLAN)
    assert prepared.image.shape[0] == 1 and min(prepared.shape) > 20 and np.isfinite(prepared.image).all()


def test_what_is_unlike_the_training_cases_is_said(make_case: MakeCase) -> None:
    image, _ = _scan()
    assert check_image(make_case("alike", image, affine=np.diag([2.5, 1, 1, 1])), PLAN) == []
    (found,) = check_image(make_case("coarse", image, affine=np.diag([1, 10, 1, 1])), PLAN)
    assert (found.reason, found.severity) == ("odd-spacing", "warning")
    assert "1 x 10 x 1 mm (RAS); the network was trained on 1 x 1 x 1 mm" in found.detail
    flat = Intensity(), Intensity()
    (found,) = check_image(make_case("flat", [image, image * 0]), replace(PLAN, intensity=flat))
    assert (found.reason, found.severity, Path(found.path).name) == ("constant-channel", "warning", "flat_1.nii.gz")
    with pytest.raises(DataError, match="hold the same voxels"):
        check_image(make_case("twice", [image, image]), replace(PLAN, intensity=flat))
    # Sizes are compared along the patient's axes: these slices are thick from left to right, as those of the plan.
    sagittal = replace(PLAN, spacing=(4.0, 1.0, 1.0))
    turned = np.array([[0, 0, 4, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)
    assert check_image(make_case("sagittal", image, affine=turned), sagittal) == []


def test_what_a_header_leaves_open_is_said_before_a_prediction(make_case: MakeCase) -> None:
    image, _ = _scan()
    nowhere, slice_ = make_case("nowhere", image), make_case("slice", image[..., :1])
    nib.Nifti1Image(image, None).to_filename(nowhere.required_image())
    assert [found.reason for found in check_image(nowhere, PLAN)] == ["no-affine"]
    assert [found.reason for found in check_image(slice_, PLAN)] == ["one-slice"]
    held = Volume(image, Geometry((12, 14, 10), np.eye(4), placed=False), Path("array"))
    assert check_image(HeldScan("array", (held,)), PLAN) == []
