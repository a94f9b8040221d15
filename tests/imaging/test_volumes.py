"""Every kind of volume a user may hand in is read by a stated rule or refused by name, before it costs memory."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medformer.errors import DataError
from medformer.imaging.geometry import MAX_BYTES, smallest_integer
from medformer.imaging.volumes import count_channels, read_channels, read_geometry, read_labels, read_volume

AFFINE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag((1.0, -2.0, 3.0)), (1, 2, 3)
)
SHAPE = (5, 6, 7)


def values(dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, SHAPE).astype(dtype)


def write(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = AFFINE, **fields: object) -> Path:
    """Save a file, then alter header fields behind nibabel's back."""
    array = values() if array is None else array
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        field, _, place = name.partition("__")
        if place:
            header[field][int(place)] = value
        else:
            header[field] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64", "int64"])
def test_values_and_affine_are_those_nibabel_reads(tmp_path: Path, name: str, dtype: str) -> None:
    nibabel.save(nibabel.Nifti1Image(values(dtype), AFFINE, dtype=dtype), tmp_path / name)
    found = read_volume(tmp_path / name)
    given = nibabel.load(tmp_path / name)
    assert found.array.dtype == np.float32
    assert np.array_equal(found.array, given.get_fdata())
    assert np.array_equal(found.geometry.affine, given.affine)
    assert np.array_equal(read_geometry(tmp_path / name).affine, given.affine)
    assert found.stored == dtype
    assert found.geometry.placed


def test_scaling_byte_order_and_pairs_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "b.nii.gz", scl_slope=0.25, scl_inter=-1000.0)
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").array, values() * np.float32(0.25) - np.float32(1000))
    write(tmp_path / "c.nii", scl_slope=0.0, scl_inter=7.0)
    assert np.array_equal(read_volume(tmp_path / "c.nii").array, values())
    big = nibabel.Nifti1Image(values(), AFFINE, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "d.nii")
    assert nibabel.load(tmp_path / "d.nii").header.endianness == ">"
    assert np.array_equal(read_volume(tmp_path / "d.nii").array, values())
    assert np.array_equal(read_labels(tmp_path / "d.nii").array, values())
    nibabel.save(nibabel.Nifti1Pair(values(), AFFINE), tmp_path / "e.img")
    for name in ("e.img", "e.hdr"):
        assert np.array_equal(read_volume(tmp_path / name).array, values())
    (tmp_path / "e.img").unlink()
    with pytest.raises(DataError, match=r"no e\.img beside it"):
        read_volume(tmp_path / "e.hdr")
    nibabel.save(nibabel.Nifti2Image(values(), AFFINE), tmp_path / "f.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "f.nii.gz").geometry.affine, AFFINE)


def test_a_file_larger_than_one_piece_is_read_whole(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 3, (200, 150, 90)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(large, AFFINE), tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, large)
    assert np.array_equal(read_labels(tmp_path / "a.nii.gz").array, large)


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", values()[..., None], pixdim__4=0.0)
    assert read_volume(path).array.shape == SHAPE
    assert np.array_equal(read_volume(path).array, values())
    assert np.array_equal(read_labels(path).array, values())
    assert read_volume(write(tmp_path / "c.nii", values()[:, :, :1])).array.shape == (5, 6, 1)
    with pytest.raises(DataError, match="2-D"):
        read_volume(write(tmp_path / "d.nii", values()[:, :, 0]))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("pixdim", [{"pixdim__4": 0.0}, {"pixdim__4": 1.0, "xyzt_units": 10}])  # as ITK writes it
def test_channels_of_one_file_are_read_one_after_another(tmp_path: Path, name: str, pixdim: dict[str, float]) -> None:
    both = np.stack([values(), values()[::-1] + 1000], axis=-1)
    path = write(tmp_path / name, both, **pixdim)
    found = list(read_channels(path))
    assert [np.array_equal(volume.array, both[..., number]) for number, volume in enumerate(found)] == [True, True]
    assert [volume.sha256 for volume in found] == ["", hashlib.sha256(path.read_bytes()).hexdigest()]
    assert all(np.allclose(volume.geometry.affine, AFFINE) and volume.geometry.shape == SHAPE for volume in found)
    assert np.array_equal(read_volume(path).array, both[..., 0])
    assert read_geometry(path).shape == SHAPE
    assert count_channels([path, path]) == 4
    with pytest.raises(DataError, match="2 volumes in one file; expected one label map of three"):
        read_labels(path)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"ends after|cannot be read to its end|cut off"):
        list(read_channels(path))


@pytest.mark.parametrize(
    ("volumes", "fields", "words"),
    [
        (3, {"pixdim__4": 2000.0, "xyzt_units": 2 + 16}, "3 volumes in one file, 2 s apart: a scan over time"),
        (
            3,
            {"pixdim__4": 0.72, "xyzt_units": 2 + 8},
            "0.72 s apart: a scan over time; expected one volume, or one for",
        ),
        (33, {"pixdim__4": 0.0}, "33 volumes in one file, more than a scan has channels"),
    ],
)
def test_scans_over_time_are_refused(tmp_path: Path, volumes: int, fields: dict[str, float], words: str) -> None:
    path = write(tmp_path / "bold.nii.gz", np.stack([values()] * volumes, axis=-1), **fields)
    for read in (read_volume, read_labels, read_geometry):
        with pytest.raises(DataError, match=words):
            read(path)


def test_a_file_that_does_not_say_where_it_lies_is_marked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", sform_code=0, qform_code=0)
    assert not read_geometry(path).placed
    assert np.array_equal(read_geometry(path).affine, nibabel.load(path).affine)
    only_qform = write(tmp_path / "b.nii", sform_code=0, qform_code=1)
    assert read_geometry(only_qform).placed
    assert np.array_equal(read_geometry(only_qform).affine, nibabel.load(only_qform).get_qform())


def test_negative_voxel_sizes_are_read_as_nibabel_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", sform_code=0, qform_code=1, pixdim__1=-1.0)
    assert np.array_equal(read_geometry(path).affine, nibabel.load(path).affine)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixdim__2": 0.0}, "voxel sizes of 1 x 0 x 3"),
        ({"pixdim__3": np.nan}, "voxel sizes of 1 x 2 x nan"),
        ({"srow_x": 0.0}, "singular"),
        ({"srow_y": np.inf}, "4 x 4"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3.0}, "affine that makes no sense"),
        ({"xyzt_units": 3}, "micrometers"),
        ({"dim__0": 9}, "dimensions"),
        ({"dim__1": -5}, "dimensions"),
        ({"dim__2": 0}, "dimensions"),
        ({"datatype": 77}, "makes no sense"),
        ({"datatype": 32, "bitpix": 64}, "complex64"),
        ({"datatype": 128, "bitpix": 24}, "colors"),
        ({"datatype": 1536, "bitpix": 128}, "makes no sense|at most 64 bits"),
        ({"scl_slope": 2.0, "scl_inter": np.inf}, "scale"),
        ({"magic": b"ni1"}, "another file"),
        ({"magic": b"xyz"}, "ANALYZE"),
        ({"vox_offset": 1e9}, "begin at byte"),
        ({"vox_offset": np.nan}, "begin at byte"),
        ({"vox_offset": -16.0}, "makes no sense"),
        ({"vox_offset": 400.0}, "cannot hold"),
        ({"dim__3": 900}, "cut off"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    for read in (read_volume, read_labels, read_geometry):
        with pytest.raises(DataError, match=words) as caught:
            read(write(tmp_path / "a.nii", **fields))
        assert "a.nii" in str(caught.value)


def test_what_is_no_nifti_is_named(tmp_path: Path) -> None:
    dicom = b"\0" * 128 + b"DICM" + b"\0" * 600
    for content, words in (
        (b"", "empty"),
        (b"hello", "does not begin"),
        (gzip.compress(b""), "empty"),
        (gzip.compress(b"x" * 1000), "does not begin"),
        (b"\x1f\x8bgarbage", "unpacked"),
        (dicom, "folder of its series"),
        (struct.pack("<i", 348) + b"\0" * 20, "begin"),
    ):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_volume(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="does not exist"):
        read_volume(tmp_path / "none.nii")
    with pytest.raises(DataError, match="is a folder"):
        read_labels(tmp_path)


def test_cut_off_and_altered_files_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 30000, (40, 40, 40)).astype(np.int16)
    plain, packed = write(tmp_path / "a.nii", noise), write(tmp_path / "b.nii.gz", noise)
    for path, keep in ((plain, 5000), (plain, 350), (packed, 5000), (packed, 300), (packed, -1), (packed, -6)):
        whole = path.read_bytes()
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"cut off|to its end|unpacked|ends within|empty"):
            read_volume(path)
        path.write_bytes(whole)
    whole = bytearray(packed.read_bytes())
    whole[len(whole) // 2] ^= 0x10  # one bit: the checksum is the only witness
    packed.write_bytes(bytes(whole))
    with pytest.raises(DataError, match="to its end"):
        read_volume(packed)


def test_a_damaged_stream_that_unpacks_to_more_than_was_packed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", np.arange(60).reshape(3, 4, 5).astype(np.int16))
    longer = gzip.compress(gzip.decompress(path.read_bytes()) + b"more")
    path.write_bytes(longer)
    assert read_volume(path).array[2, 3, 4] == 59
    path.write_bytes(longer[:-8] + bytes([longer[-8] ^ 1]) + longer[-7:])
    with pytest.raises(DataError, match=r"to its end \(CRC check failed"):
        read_volume(path)
    path.write_bytes(gzip.compress(gzip.decompress(longer) + bytes(2**20)))
    with pytest.raises(DataError, match="goes on for more than 1,048,576 bytes after the 120 bytes of voxels"):
        read_volume(path)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_bombs_are_refused_before_memory_is_set_aside(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    for shape, words in (((30000, 30000, 30000), "at most"), ((1000, 1000, 1000), "cannot hold")):
        header.set_data_shape(shape)
        header["vox_offset"] = 352
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4 + 1000)))
        for read in (read_volume, read_labels):
            with little_memory(), pytest.raises(DataError, match=words):
                read(tmp_path / "a.nii.gz")
    # A small image in front of a long tail, whose checksum is at its end: little of the tail is unpacked.
    header.set_data_shape(SHAPE)
    with gzip.open(tmp_path / "b.nii.gz", "wb", 1) as file:
        file.write(header.binaryblock + bytes(4 + 210))
        for _ in range(64):
            file.write(bytes(2**20))
    with little_memory(), pytest.raises(DataError, match="goes on for more"):
        read_volume(tmp_path / "b.nii.gz")
    assert MAX_BYTES >= 512 * 512 * 2000 * 4


def test_values_that_are_not_finite_are_refused_unless_wanted(tmp_path: Path) -> None:
    image = values("float32")
    image[1, 2, 3], image[4, 0, 0] = np.nan, np.inf
    path = write(tmp_path / "a.nii.gz", image)
    with pytest.raises(DataError, match=r"2 voxels that are NaN or infinite as float32 \(the first at \(4, 0, 0\)\)"):
        read_volume(path)
    assert np.array_equal(read_volume(path, nonfinite="keep").array, image, equal_nan=True)
    large = values("float64")
    large[0, 0, 0] = 1e300
    with pytest.raises(DataError, match="1 voxels that are NaN or infinite as float32"):
        read_volume(write(tmp_path / "b.nii", large))


@pytest.mark.parametrize(
    ("top", "bottom", "dtype"),
    [(200, 0, "uint8"), (300, 0, "uint16"), (300, -1, "int16"), (70000, 0, "int32"), (40000, -3, "int32")],
)
@pytest.mark.parametrize("stored", ["int32", "float32", "float64", "int64"])
def test_labels_take_the_smallest_type(tmp_path: Path, top: int, bottom: int, dtype: str, stored: str) -> None:
    labels = np.zeros(SHAPE, stored)
    labels[0, 1, 2], labels[2, 1, 0] = top, bottom
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE, dtype=stored), tmp_path / "a.nii.gz")
    found = read_labels(tmp_path / "a.nii.gz")
    assert found.array.dtype == dtype
    assert np.array_equal(found.array, labels)
    assert found.stored == stored


def test_labels_that_are_nearly_whole_pass_and_others_are_named(tmp_path: Path) -> None:
    nearly = values("float32") + np.float32(4e-4)
    assert np.array_equal(read_labels(write(tmp_path / "a.nii", nearly)).array, values())
    scaled = read_labels(write(tmp_path / "b.nii", 2 * values(), scl_slope=0.5, scl_inter=0.0))
    assert np.array_equal(scaled.array, values())
    blurred = values("float32")
    blurred[3, 1, 2], blurred[0, 0, 5] = 1.4, 2.002
    with pytest.raises(DataError, match=r"holds 1\.4 at \(3, 1, 2\); expected labels"):
        read_labels(write(tmp_path / "c.nii", blurred))
    blurred[3, 1, 2] = np.nan
    with pytest.raises(DataError, match=r"holds nan at \(3, 1, 2\)"):
        read_labels(write(tmp_path / "d.nii", blurred))
    with pytest.raises(DataError, match="32 bits"):
        read_labels(write(tmp_path / "e.nii", np.full(SHAPE, 3e9)))


def test_no_integer_type_is_made_up() -> None:
    assert smallest_integer(0, 0) == np.uint8
    with pytest.raises(DataError, match="32 bits"):
        smallest_integer(0, 2**31)


@pytest.mark.slow
def test_a_large_ct_is_read_in_little_more_than_its_own_memory(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((512, 512, 800))
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = 352
    with gzip.open(tmp_path / "a.nii.gz", "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for number in range(800):
            file.write(np.full((512, 512), number - 400, np.int16).tobytes())
    code = (
        "import resource, sys; from pathlib import Path; from medformer.imaging.volumes import read_volume; "
        "v = read_volume(Path(sys.argv[1])); assert float(v.array[3, 4, 700]) == 300; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peak = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")], capture_output=True, text=True, check=True
    )
    assert int(peak.stdout) * 1024 < 1.3e9


@pytest.mark.real_data
def test_real_images_are_what_nibabel_reads(medformer_data: Path) -> None:
    folder = medformer_data / "volumes" / "Task04_Hippocampus"
    for path in sorted((folder / "imagesTr").glob("hippocampus_*.nii.gz"))[:10]:
        found, given = read_volume(path), nibabel.load(path)
        assert np.array_equal(found.array, given.get_fdata(dtype=np.float32))
        assert np.array_equal(found.geometry.affine, given.affine)
        labels = read_labels(folder / "labelsTr" / path.name)
        assert labels.array.dtype == np.uint8
        assert set(np.unique(labels.array)) <= {0, 1, 2}
