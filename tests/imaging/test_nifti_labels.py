"""A label map lies where its image lies, for every way an image can lie, or there is no file and an error."""

from __future__ import annotations

import errno
import os
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medformer.errors import DataError, ResourceError
from medformer.imaging import nifti_labels
from medformer.imaging.geometry import Geometry, Volume
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.volumes import read_labels, read_volume

CODES = ["".join(codes) for order in permutations(("RL", "AP", "SI")) for codes in product(*order)]
SHAPE = (4, 5, 6)
LABELS = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
PLACED = ["qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
PLACED += ["srow_x", "srow_y", "srow_z", "xyzt_units"]


def affine_of(codes: str, kind: str) -> np.ndarray:
    spacing = {"anisotropic": (0.4882813, 0.4882813, 5.0)}.get(kind, (1.1, 1.2, 1.3))
    affine = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(codes), SHAPE)
    turn = nibabel.eulerangles.euler2mat(0.13, -0.21, 0.34) if kind == "oblique" else np.eye(3)
    if kind == "negated":  # both cosines of the plane negated: half a turn more, about an oblique axis
        turn = nibabel.eulerangles.euler2mat(np.pi - 0.1, 0.15, 0.0)
    affine[:3, :3] = turn @ affine[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = (-91.37, 12.0625, 1 / 3)
    return affine


def image(path: Path, affine: np.ndarray, *, sform: int = 1, qform: int = 1, kind: type = nibabel.Nifti1Image) -> Path:
    made = kind(np.zeros(SHAPE, np.int16), affine)
    made.set_sform(affine, code=sform)
    made.set_qform(affine, code=qform)
    nibabel.save(made, path)
    return path


def same_place(path: Path, like: Path) -> bool:
    found, given = nibabel.load(path), nibabel.load(like)
    fields = all(found.header[name].tobytes() == given.header[name].tobytes() for name in PLACED)
    zooms = found.header["pixdim"][:4].tobytes() == given.header["pixdim"][:4].tobytes()
    return fields and zooms and np.array_equal(found.affine, given.affine)


@pytest.mark.parametrize("kind", ["orthogonal", "oblique", "negated", "anisotropic"])
@pytest.mark.parametrize("codes", CODES)
def test_labels_come_back_identical_on_the_identical_grid(tmp_path: Path, codes: str, kind: str) -> None:
    like = image(tmp_path / "image.nii.gz", affine_of(codes, kind), sform=2, qform=1)
    write_labels(tmp_path / "labels.nii.gz", LABELS, like)
    found = read_labels(tmp_path / "labels.nii.gz")
    assert found.array.dtype == np.uint8
    assert np.array_equal(found.array, LABELS)
    assert np.array_equal(found.geometry.affine, nibabel.load(like).affine)
    assert same_place(tmp_path / "labels.nii.gz", like)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(0, 0), (0, 1), (4, 0), (3, 2)])
def test_codes_are_kept_whatever_they_are(tmp_path: Path, sform: int, qform: int, kind: type) -> None:
    like = image(tmp_path / "image.nii", affine_of("PIR", "oblique"), sform=sform, qform=qform, kind=kind)
    write_labels(tmp_path / "labels.nii.gz", LABELS, like)
    assert same_place(tmp_path / "labels.nii.gz", like)
    header = nibabel.load(tmp_path / "labels.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (sform, qform)
    assert type(header).__name__.startswith("Nifti2" if kind is nibabel.Nifti2Image else "Nifti1")
    assert read_labels(tmp_path / "labels.nii.gz").geometry.placed is bool(sform or qform)


def test_forms_that_disagree_and_big_endian_headers_are_kept(tmp_path: Path) -> None:
    made = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), None, nibabel.Nifti1Header(endianness=">"))
    made.set_sform(affine_of("LAS", "oblique"), code=2)
    made.set_qform(affine_of("RAS", "anisotropic"), code=1)
    nibabel.save(made, tmp_path / "image.nii")
    write_labels(tmp_path / "labels.nii.gz", LABELS, tmp_path / "image.nii")
    given, found = nibabel.load(tmp_path / "image.nii"), nibabel.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(found.get_sform(), given.get_sform())
    assert np.array_equal(found.get_qform(), given.get_qform())
    assert not np.array_equal(found.get_sform(), found.get_qform())


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 1, "uint8"),
        (0, 255, "uint8"),
        (0, 256, "uint16"),
        (-1, 5, "int16"),
        (0, 65536, "int32"),
        (-1, 40000, "int32"),
    ],
)
def test_the_smallest_sufficient_type_is_written_unscaled(tmp_path: Path, low: int, high: int, dtype: str) -> None:
    like = image(tmp_path / "image.nii", np.eye(4))
    labels = np.zeros(SHAPE, np.int64)
    labels[0, 0, 0], labels[1, 2, 3] = low, high
    write_labels(tmp_path / "labels.nii.gz", labels, like)
    found = nibabel.load(tmp_path / "labels.nii.gz")
    assert found.get_data_dtype() == dtype
    assert (found.dataobj.slope, found.dataobj.inter) == (1.0, 0.0)
    assert np.array_equal(np.asarray(found.dataobj), labels)


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    like = image(tmp_path / "image.nii", np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, LABELS, like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_volume_may_stand_for_its_file_or_for_itself(tmp_path: Path) -> None:
    like = image(tmp_path / "image.nii.gz", affine_of("LPS", "oblique"), sform=4, qform=0)
    write_labels(tmp_path / "a.nii.gz", LABELS, read_volume(like))
    assert same_place(tmp_path / "a.nii.gz", like)
    affine = affine_of("LPS", "oblique")
    write_labels(tmp_path / "b.nii.gz", LABELS, Volume(LABELS, Geometry(SHAPE, affine), Path("nowhere.nii")))
    found = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(found.get_qform(), affine, atol=1e-4)
    np.testing.assert_allclose(found.get_sform(), affine, atol=1e-4)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (1, 1)
    assert found.header.get_xyzt_units()[0] == "mm"


def test_a_single_volume_of_a_series_gives_a_3d_label_map(tmp_path: Path) -> None:
    made = nibabel.Nifti1Image(np.zeros((*SHAPE, 1), np.float32), affine_of("RAS", "oblique"))
    made.header["pixdim"][4] = 0
    nibabel.save(made, tmp_path / "image.nii.gz")
    write_labels(tmp_path / "labels.nii.gz", LABELS, tmp_path / "image.nii.gz")
    assert nibabel.load(tmp_path / "labels.nii.gz").shape == SHAPE
    assert same_place(tmp_path / "labels.nii.gz", tmp_path / "image.nii.gz")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    like = image(tmp_path / "image.nii", np.eye(4))
    for labels, name, words in (
        (LABELS[:3], "a.nii.gz", "another image"),
        (LABELS.astype(np.float32), "a.nii.gz", "expected integers"),
        (LABELS.astype(np.int64) << 40, "a.nii.gz", "32 bits"),
        (LABELS, "a.png", r"\.nii\.gz"),
    ):
        with pytest.raises(DataError, match=words):
            write_labels(tmp_path / name, labels, like)
    with pytest.raises(DataError, match="does not exist"):
        write_labels(tmp_path / "a.nii.gz", LABELS, tmp_path / "none.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["image.nii"]


def test_a_file_that_reads_back_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = image(tmp_path / "image.nii", affine_of("LPS", "oblique"))
    write_labels(tmp_path / "labels.nii.gz", LABELS, like)
    before = (tmp_path / "labels.nii.gz").read_bytes()
    real = nibabel.Nifti1Image.from_stream

    def other_voxels(stream: object) -> nibabel.Nifti1Image:
        found = real(stream)
        return nibabel.Nifti1Image(np.asarray(found.dataobj) ^ 1, found.affine, found.header)

    def moved(stream: object) -> nibabel.Nifti1Image:
        found = real(stream)
        found.header["srow_x"][3] += 0.001
        return found

    def unreadable(stream: object) -> nibabel.Nifti1Image:
        raise EOFError("cut off")

    for wrong, words in ((other_voxels, "voxels differ"), (moved, "sform"), (unreadable, "cut off")):
        monkeypatch.setattr(nibabel.Nifti1Image, "from_stream", staticmethod(wrong))
        with pytest.raises(ResourceError, match=words):
            write_labels(tmp_path / "labels.nii.gz", LABELS, like)
        assert (tmp_path / "labels.nii.gz").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = image(tmp_path / "image.nii", np.eye(4))
    write_labels(tmp_path / "labels.nii.gz", LABELS, like)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nifti_labels.gzip.GzipFile, "write", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_labels(tmp_path / "labels.nii.gz", LABELS + np.uint8(1), like)
    monkeypatch.undo()
    assert np.array_equal(read_labels(tmp_path / "labels.nii.gz").array, LABELS)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.real_data
def test_real_labels_are_rewritten_identically(tmp_path: Path, medformer_data: Path) -> None:
    folder = medformer_data / "volumes" / "Task04_Hippocampus"
    for path in sorted((folder / "labelsTr").glob("hippocampus_*.nii.gz"))[:10]:
        labels = read_labels(path)
        write_labels(tmp_path / path.name, labels.array, folder / "imagesTr" / path.name)
        found = read_labels(tmp_path / path.name)
        assert np.array_equal(found.array, np.asarray(nibabel.load(path).dataobj))
        assert same_place(tmp_path / path.name, folder / "imagesTr" / path.name)
