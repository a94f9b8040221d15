"""Writing label and probability maps as NIfTI on the grid of the image they belong to; what is written is read back.

A result lies exactly where its image lies: the affine's own header fields (sform and qform with their codes, voxel
sizes, units) are copied bit for bit from the input's header, not recomputed. The file is read back by nibabel, not by
the reader of this package, and compared before it takes its name.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medformer.errors import DataError, ResourceError
from medformer.files import atomic_path
from medformer.imaging.geometry import Geometry, Volume, smallest_integer
from medformer.imaging.nifti_file import open_nifti
from medformer.imaging.volumes import read_geometry

_PLACEMENT = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
_LONGEST = 32767  # voxels per axis that NIfTI-1 can state
_SCANNER = 1
_LEVEL = 4  # of gzip: label maps shrink a hundredfold at any level, and the fastest still leaves twice the size
_PLANES = 32
_255TH = float(np.nextafter(np.float32(1 / 255), np.float32(0)))  # the nearest float32 makes more than 1 of 255


def write_labels(path: Path, labels: NDArray[Any], like: Path | Volume) -> None:
    """Write a label map on the grid of an image, in the smallest sufficient integer type, unscaled.

    The type is uint8, uint16, int16 or int32. Equal arguments give equal bytes.

    Args:
        path: A name that ends in .nii.gz or .nii.
        labels: Integers or bool (X, Y, Z) on the grid of `like`.
        like: The image, as a file, a DICOM series folder or a volume that was read from either; a volume whose path
            does not exist counts by its own affine. Without a NIfTI header, sform and qform both hold the affine with
            code 1 (scanner).

    Raises:
        DataError: Labels that are no integers, beyond 32 bits or of another shape; a wrong suffix; an unreadable image.
        ResourceError: The folder is not writable, the disk is full, or it returned something else than was written.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iub" or labels.ndim != 3 or labels.size == 0:
        raise DataError(
            f"The labels for {path} are {labels.dtype} of shape {labels.shape}; expected integers (X, Y, Z)."
        )
    dtype = smallest_integer(int(labels.min()), int(labels.max()))
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path} does not end in .nii.gz or .nii; choose such a name.")
    header, geometry = _header(like)
    if labels.shape != geometry.shape:
        raise DataError(
            f"The result for {path} has the shape {labels.shape}; its image has {geometry.shape}. "
            "It belongs to another image, or was not brought back to its grid."
        )
    header.set_data_shape(labels.shape)
    header.set_data_dtype(dtype)
    header["vox_offset"] = header.single_vox_offset
    with atomic_path(path) as temporary:
        with ExitStack() as stack:
            raw = cast(BinaryIO, stack.enter_context(open(temporary, "wb")))
            packed = path.name.endswith(".gz")
            # No name and time inside, so that equal results are equal files.
            file = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0)) if packed else raw
            file.write(header.binaryblock.ljust(header.single_vox_offset, b"\0"))
            for start in range(0, labels.shape[2], _PLANES):
                file.write(labels[:, :, start : start + _PLANES].astype(dtype, copy=False).tobytes(order="F"))
        _compare(path, temporary, labels, dtype, header, geometry)


def write_maps(path: Path, maps: NDArray[np.uint8], like: Path | Volume) -> None:
    """Write probability maps on the grid of an image, one volume after another, scaled so that 255 reads as 1.

    The maps are written and read back piece by piece, so that they may lie on disk.

    Args:
        path: A name that ends in .nii.gz.
        maps: (X, Y, Z, maps) in 255ths.
        like: See `write_labels`.

    Raises:
        DataError: The maps have another shape than the image, or it cannot be read.
        ResourceError: As `write_labels`.
    """
    header, geometry = _header(like)
    if maps.shape[:3] != geometry.shape:
        raise DataError(f"The maps for {path} have the shape {maps.shape}; their image has {geometry.shape}.")
    header.set_data_shape(maps.shape if maps.shape[3] > 1 else maps.shape[:3])
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(_255TH, 0.0)
    header["vox_offset"] = header.single_vox_offset
    block = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:
            for piece in chain((block,), map_planes(maps)):
                packed.write(piece)
        reason = ""
        try:
            with open(temporary, "rb") as stored, gzip.GzipFile(fileobj=stored) as packed:
                found = type(header)(packed.read(len(block))[: len(header.binaryblock)])
                if not np.array_equal(found.get_best_affine(), geometry.affine):
                    reason = "its affine differs from the image's"
                elif any(packed.read(len(piece)) != piece for piece in map_planes(maps)) or packed.read(1):
                    reason = "its voxels differ from what was written"
        except (OSError, EOFError, zlib.error, ValueError, HeaderDataError) as error:
            reason = f"it cannot be read back ({error})"
        if reason:
            raise ResourceError(f"{path} was written, but {reason}. Check the disk; the file was not kept.")


def map_planes(maps: NDArray[Any]) -> Iterator[bytes]:
    """The bytes of maps (X, Y, Z, maps) in Fortran order, some planes at a time."""
    for number in range(maps.shape[3]):
        for start in range(0, maps.shape[2], _PLANES):
            yield maps[:, :, start : start + _PLANES, number].tobytes(order="F")


def _header(like: Path | Volume) -> tuple[Any, Geometry]:
    """A header that places a result as `like` is placed, and the grid that it must read back as."""
    source = like.path if isinstance(like, Volume) else Path(like)
    if source.is_file() or (not source.is_dir() and not isinstance(like, Volume)):
        with open_nifti(source) as given:
            header = type(given.header)()
            for name in _PLACEMENT:
                header[name] = given.header[name]
            header["pixdim"][:4] = given.header["pixdim"][:4]
            geometry = given.geometry
    else:
        grid = like.geometry if isinstance(like, Volume) else read_geometry(source)
        header = (nibabel.Nifti2Header if max(grid.shape) > _LONGEST else nibabel.Nifti1Header)()
        header.set_data_shape(grid.shape)
        header.set_zooms(grid.spacing)
        header.set_sform(grid.affine, code=_SCANNER)
        header.set_qform(grid.affine, code=_SCANNER, strip_shears=True)
        header.set_xyzt_units("mm")
        # A header keeps float32; that much of the affine is what can be compared.
        geometry = Geometry(grid.shape, header.get_best_affine())
    header["magic"] = header.single_magic
    return header, geometry


def _compare(
    path: Path, temporary: Path, array: NDArray[Any], dtype: np.dtype[Any], header: Any, geometry: Geometry
) -> None:
    reason = ""
    try:
        kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        with open(temporary, "rb") as raw:
            image = kind.from_stream(gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw)
            voxels = np.asarray(image.dataobj)
        found = image.header
        if image.shape != array.shape or found.get_data_dtype() != dtype:
            reason = f"it reads as {found.get_data_dtype()} {image.shape} and not as {dtype} {array.shape}"
        elif any(found[name].tobytes() != header[name].tobytes() for name in _PLACEMENT):
            reason = "its sform, qform or units differ from the image's"
        elif not np.array_equal(image.affine, geometry.affine):
            reason = "its affine differs from the image's"
        elif not np.array_equal(voxels, array.astype(dtype, copy=False)):
            reason = "its voxels differ from what was written"
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError) as error:
        reason = f"it cannot be read back ({error})"
    if reason:
        raise ResourceError(f"{path} was written, but {reason}. Check the disk; the file was not kept.")
