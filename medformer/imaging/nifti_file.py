"""Reading NIfTI-1 and NIfTI-2 files without trusting them: the header is checked before memory is allocated.

nibabel interprets the header (affine, scaling, types); the voxels are streamed here, so that a file costs no more
memory than the array it becomes, is not unpacked far beyond what its header declares, and has its checksum verified.
A file is opened once and read from its first byte to its last; its SHA-256 is computed on the way. Compression is
recognized by content, not by name.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from itertools import product
from pathlib import Path
from typing import Any, Self, cast

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.geometry import GRID_TOLERANCE, MAX_BYTES, Geometry, corner_distance

_MAX_RATIO = 1032  # a deflate stream cannot expand by more
_MAX_OFFSET = 64 * 2**20  # header extensions are text; none come near this
_SIZES = 0.01  # share by which two statements of a voxel's size may differ
_CHUNK = 2**21  # voxels per read
_BUFFER = 2**17  # bytes read from the disk at a time
_MOST_AFTER = 2**20  # bytes after the voxels of a small file; those of others may be followed by as many again
_KINDS = "iuf"
_MAGIC = {b"n+1": True, b"ni1": False, b"n+2": True, b"ni2": False}
_UNITS = {1: "meters", 3: "micrometers"}
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # what xyzt_units says of the fourth axis, where it is time
_MOST_CHANNELS = 32  # no scan has so many; a series over time or over directions of diffusion has
_SILENT = logging.Logger("medformer.nifti", level=logging.CRITICAL + 1)
_DAMAGED = "Fetch or export the file again."


class _Bytes(RawIOBase):
    """The bytes of a file in order, and the hash of those that were read."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.hash.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Content:
    """What a file holds, unpacked if it is gzip."""

    def __init__(self, path: Path) -> None:
        try:
            self._raw = _Bytes(path)
        except PermissionError:
            raise DataError(
                f"{path} may not be read by this user; expected a readable file. Change its access."
            ) from None
        self._stored = BufferedReader(self._raw, _BUFFER)
        self.packed = self._stored.peek(2)[:2] == b"\x1f\x8b"
        self._file: Any = gzip.GzipFile(fileobj=self._stored, mode="rb") if self.packed else self._stored

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        return cast(bytes, self._file.read(count))

    def fill(self, target: memoryview) -> int:
        """Fill `target` with the next bytes; returns how many there were."""
        filled = 0
        while filled < len(target) and (got := self._file.readinto(target[filled:])):
            filled += got
        return filled

    def sha256(self) -> str:
        """Hash of the file as stored, after reading what is left of it."""
        while self._stored.read(_BUFFER):
            pass
        return self._raw.hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stored.close()


@dataclass(frozen=True)
class NiftiFile:
    """An open NIfTI file whose header has been checked.

    Attributes:
        path: As given.
        voxels: The file that holds the voxels: `path` itself, or the .img beside a .hdr.
        header: nibabel's header, repaired as nibabel does on loading.
        geometry: Affine as read: sform if its code is above 0, else qform, else from voxel sizes (not placed).
        dtype: As stored, with byte order.
        scale: Slope and intercept; None where values are taken as stored.
        remark: How two positions that the header states differ; empty where they agree.
        volumes: How many the file holds on this grid, one after another: its channels.
    """

    path: Path
    voxels: Path
    header: Any
    geometry: Geometry
    dtype: np.dtype[Any]
    scale: tuple[float, float] | None
    remark: str
    volumes: int
    _given: _Content
    _content: _Content
    _skipped: int

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Give the stored values once, piece by piece in the file's (Fortran) order, with the index of each first one.

        Volumes follow one another; no piece is part of two, and the index is that within its volume. The array that is
        given is overwritten by the next piece.

        Raises:
            DataError: The file ends early, or its checksum is wrong.
        """
        size = math.prod(self.geometry.shape)
        count = size * self.volumes
        buffer = np.empty(min(size, _CHUNK), self.dtype)
        try:
            self._content.read(self._skipped)
            for before, start in product(range(0, count, size), range(0, size, _CHUNK)):
                piece = buffer[: min(_CHUNK, size - start)]
                filled = self._content.fill(memoryview(cast(Any, piece.view(np.uint8))))
                if filled < piece.nbytes:
                    found = (before + start) * piece.itemsize + filled
                    raise DataError(
                        f"{self.voxels} ends after {found:,} of {count * piece.itemsize:,} bytes of voxels: it is cut "
                        f"off. {_DAMAGED}"
                    )
                yield start, piece
            if self._content.packed:
                self._read_to_end(count * self.dtype.itemsize)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.voxels} cannot be read to its end ({error}); expected "
                f"{count * self.dtype.itemsize:,} bytes of voxels. {_DAMAGED}"
            ) from error

    def _read_to_end(self, size: int) -> None:
        """Read what follows the voxels of a gzip stream, whose checksum is compared at its end.

        A damaged stream may unpack to more than was packed, and is then known by its checksum alone.
        """
        left = most = max(size, _MOST_AFTER)
        while left >= 0 and (got := len(self._content.read(_BUFFER))):
            left -= got
        if left < 0:
            raise DataError(
                f"{self.voxels} goes on for more than {most:,} bytes after the {size:,} bytes of voxels that its "
                f"header states: one of the two is damaged. {_DAMAGED}"
            )

    def sha256(self) -> str:
        """SHA-256 of the bytes of `path`; to be called after the voxels were read."""
        return self._given.sha256()


@contextmanager
def open_nifti(path: Path) -> Iterator[NiftiFile]:
    """Open a file and check its header.

    Raises:
        DataError: No file, no NIfTI, a damaged header, a kind of image that is not supported, a size above
            `MAX_BYTES`, or one that the file cannot hold.
    """
    head, voxels = _parts(path)
    with ExitStack() as stack:
        first = content = stack.enter_context(_Content(head))
        header, single = _header(head, first)
        if single:
            voxels = head
        elif voxels == head:
            raise DataError(
                f"{path} says that its voxels are in another file; expected them in it, or a .hdr and an .img."
            )
        else:
            content = stack.enter_context(_Content(voxels))
        shape, volumes = _shape(header, path)
        dtype = _dtype(header, path)
        geometry = _geometry(header, shape, path)
        try:
            slope, inter = header.get_slope_inter()
        except HeaderDataError as error:
            raise DataError(f"{path} scales its values in a way that makes no sense ({error}). {_DAMAGED}") from error
        if not 0 <= header["vox_offset"] <= _MAX_OFFSET:
            raise DataError(
                f"{path} says that its voxels begin at byte {header['vox_offset']}, which cannot be. {_DAMAGED}"
            )
        offset = max(int(header["vox_offset"]), header.single_vox_offset if single else 0)
        _refuse_size(path, voxels, shape, volumes, dtype, offset, packed=content.packed)
        scale = None if slope is None or (slope, inter) == (1.0, 0.0) else (slope, inter)
        given = content if path == voxels else first
        skipped = offset - (header.sizeof_hdr if single else 0)
        yield NiftiFile(
            path, voxels, header, geometry, dtype, scale, _remark(header, geometry), volumes, given, content, skipped
        )


def _parts(path: Path) -> tuple[Path, Path]:
    """The files of the header and of the voxels."""
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path} is a link to {path.readlink()}, which does not exist; expected a NIfTI file. Correct the link."
        )
    if not path.exists():
        raise DataError(f"{path} does not exist; expected a NIfTI file. Correct the path, or restore the file.")
    if not path.is_file():
        raise DataError(f"{path} is not a file; expected a NIfTI file (.nii or .nii.gz).")
    name = path.name.removesuffix(".gz")
    if not name.endswith((".hdr", ".img")):
        return path, path
    partner = name[:-3] + ("img" if name.endswith("hdr") else "hdr")
    beside = next(
        (path.with_name(partner + end) for end in ("", ".gz") if path.with_name(partner + end).is_file()), None
    )
    if beside is None:
        raise DataError(f"{path} has no {partner} beside it; expected header and voxels together.")
    return (path, beside) if name.endswith("hdr") else (beside, path)


def _header(path: Path, file: _Content) -> tuple[Any, bool]:
    try:
        block = file.read(348)
        if block[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):  # 540: NIfTI-2 has a longer header
            block += file.read(540 - 348)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); expected a NIfTI file. {_DAMAGED}") from error
    if not block:
        raise DataError(f"{path} is empty ({path.stat().st_size} bytes); expected a NIfTI file. {_DAMAGED}")
    sizes = {int.from_bytes(block[:4], "little"): "<", int.from_bytes(block[:4], "big"): ">"}
    kind = nibabel.Nifti1Header if 348 in sizes else nibabel.Nifti2Header if 540 in sizes else None
    length = 348 if 348 in sizes else 540
    magic = block[344:347] if length == 348 else block[4:7]
    if kind is None or magic not in _MAGIC:
        what = (
            "is a DICOM file; give the folder of its series instead"
            if block[128:132] == b"DICM"
            else "is an ANALYZE 7.5 file, which does not say left from right; convert it to NIfTI"
            if kind is not None and length == 348 and len(block) >= 348
            else "does not begin as a NIfTI file does; convert or fetch it again"
        )
        raise DataError(f"{path} {what}. Expected NIfTI (.nii, .nii.gz), got bytes {block[:4].hex(' ')} and no magic.")
    if len(block) < length:
        raise DataError(f"{path} ends within its header ({len(block)} of {length} bytes). {_DAMAGED}")
    header = kind(block[:length], endianness=sizes[length], check=False)
    _refuse_spacing(header, path)
    try:
        header.check_fix(logger=_SILENT, error_level=40)
    except (HeaderDataError, ValueError) as error:
        raise DataError(f"{path} has a header that makes no sense ({error}). {_DAMAGED}") from error
    return header, _MAGIC[magic]


def _refuse_spacing(header: Any, path: Path) -> None:
    # Before nibabel repairs the header: it would quietly make 1 mm of a size of 0.
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise DataError(
            f"{path} states voxel sizes of {' x '.join(f'{size:g}' for size in sizes)}; expected three sizes above "
            "zero. Set the right spacing in its header, or convert the image again."
        )
    units = int(header["xyzt_units"]) & 7
    if units in _UNITS:
        raise DataError(
            f"{path} is measured in {_UNITS[units]}; expected millimeters. Convert it, or correct xyzt_units."
        )


def _shape(header: Any, path: Path) -> tuple[tuple[int, int, int], int]:
    """Voxels per axis of one volume, and how many volumes there are."""
    rank = int(header["dim"][0])
    shape = tuple(int(size) for size in header["dim"][1 : rank + 1]) if 1 <= rank <= 7 else ()
    if not shape or min(shape) < 1:
        raise DataError(f"{path} states the dimensions {[int(size) for size in header['dim']]}. {_DAMAGED}")
    if rank < 3:
        raise DataError(
            f"{path} is {rank}-D with the shape {shape}; expected a volume of three axes. "
            "Stack its slices, or store one slice as (X, Y, 1)."
        )
    volumes = math.prod(shape[3:])
    _refuse_series(header, path, shape, volumes)
    return cast(tuple[int, int, int], shape[:3]), volumes


def _refuse_series(header: Any, path: Path, shape: tuple[int, ...], volumes: int) -> None:
    """Refuse volumes that are no channels: points in time, or so many that they must be a series.

    A step of 0 or 1 says nothing: the programs that write channels leave it so, ITK with seconds as its unit.
    """
    if volumes == 1:
        return
    step = float(header["pixdim"][4]) * _SECONDS.get(int(header["xyzt_units"]) & 56, 0.0)
    timed = step > 0 and float(header["pixdim"][4]) != 1
    if timed or volumes > _MOST_CHANNELS:
        what = f"{step:g} s apart: a scan over time" if timed else "more than a scan has channels"
        advice = " If they are channels, state a fourth voxel size of 0 in its header." if timed else ""
        raise DataError(
            f"{path} has the shape {shape}: {volumes} volumes in one file, {what}; expected one volume, or one for "
            f"each channel. Give one time point or the mean over time, such as `fslmaths IN -Tmean OUT`.{advice}"
        )


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.kind not in _KINDS or dtype.itemsize > 8 or dtype.names:
        kind = "colors" if dtype.names else f"values of type {dtype}"
        raise DataError(
            f"{path} holds {kind}; expected integers or floating-point numbers of at most 64 bits. "
            "Save one real number for each voxel."
        )
    return dtype


def _geometry(header: Any, shape: tuple[int, int, int], path: Path) -> Geometry:
    placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    try:
        return Geometry(shape, header.get_best_affine(), placed)
    except (HeaderDataError, ValueError) as error:
        raise DataError(f"{path} has an affine that makes no sense ({error}). {_DAMAGED}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _remark(header: Any, geometry: Geometry) -> str:
    """How the qform, or without one the sizes of the voxels, differ from the sform, which is used."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes[0] <= 0:
        return ""
    if codes[1] <= 0:
        # Without a qform, ITK takes the sizes from pixdim.
        stated = [float(size) for size in np.abs(header["pixdim"][1:4])]
        if np.allclose(stated, geometry.spacing, rtol=_SIZES, atol=0.0):
            return ""
        sizes, others = (" x ".join(f"{size:.4g}" for size in some) for some in (geometry.spacing, stated))
        return f"the sform, which is used, has voxels of {sizes} mm, and pixdim states {others} mm. Correct one of them"
    try:
        other = Geometry(geometry.shape, header.get_qform())
    except (HeaderDataError, ValueError, DataError):
        return "the sform is used, and the qform makes no sense. Correct or remove the qform"
    distance = corner_distance(geometry, other)
    if distance <= GRID_TOLERANCE * min(geometry.spacing):
        return ""
    return (
        f"the sform (code {codes[0]}), which is used, and the qform (code {codes[1]}) put a corner {distance:.3g} mm "
        "apart; programs that read the qform, as those on ITK may, see the scan elsewhere. Correct the wrong one"
    )


def _refuse_size(
    path: Path,
    voxels: Path,
    shape: tuple[int, int, int],
    volumes: int,
    dtype: np.dtype[Any],
    offset: int,
    *,
    packed: bool,
) -> None:
    count = math.prod(shape)
    if count * max(dtype.itemsize, 4) > MAX_BYTES:
        raise DataError(
            f"{path} declares {' x '.join(map(str, shape))} voxels of {dtype}, "
            f"{count * max(dtype.itemsize, 4):,} bytes in memory; at most {MAX_BYTES:,} are read. "
            "Crop or downsample it, or correct its header."
        )
    needed = offset + volumes * count * dtype.itemsize
    size = voxels.stat().st_size
    held = size * _MAX_RATIO if packed else size
    if needed > held:
        sizes = " x ".join(map(str, (*shape, volumes) if volumes > 1 else shape))
        raise DataError(
            f"{voxels} declares {needed:,} bytes ({sizes} voxels of {dtype} from byte {offset:,}), but its "
            f"{size:,} bytes cannot hold more than {held:,}: it is cut off or damaged. {_DAMAGED}"
        )
