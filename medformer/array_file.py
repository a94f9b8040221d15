"""Reading `.npy` and `.npz` files that somebody else wrote: what a header claims is checked before it is believed.

A header that claims more numbers than there are, pickled objects, encryption, a zip bomb or a flipped byte ends as an
error that says so, before memory is reserved. Nothing in a file can execute.
"""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.files import file_fault

# A valid archive may claim a thousand times its size, which deflate reaches on zeros.
_ALWAYS_READ = 2**28
_MOST_COMPRESSED = 200
_CHUNK = 2**20
_KINDS = "biufUS"
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
)


class ArrayFileError(DataError):
    """A file of arrays that cannot be read; the message says why, without the file's name."""


class _Header:
    """What a `.npy` file says about its numbers, checked against the bytes that there are.

    Args:
        file: Stands at the start; afterwards at the first number.
        size: Bytes of the whole file.
        name: Of the array in an archive, for messages.
    """

    def __init__(self, file: IO[bytes], size: int, name: str = "") -> None:
        self._prefix = f"{name}: " if name else ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                version = npy.read_magic(file)  # type: ignore[no-untyped-call]
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                self.shape, self.by_columns, self.dtype = read(file)  # type: ignore[no-untyped-call]
        except _HEADER_ERRORS:
            raise self._error("it is no array that NumPy wrote, or its header is damaged") from None
        if self.dtype.hasobject:
            raise self._error("it holds pickled Python objects, which could run code; save an array of plain numbers")
        if self.dtype.kind not in _KINDS or self.dtype.itemsize == 0 or any(length < 0 for length in self.shape):
            raise self._error(f"it holds {self.dtype} {self.shape}; expected an array of numbers")
        self.start = file.tell()
        self.bytes = math.prod(self.shape) * self.dtype.itemsize
        if self.start + self.bytes != size:
            raise self._error(
                f"its header claims an array {self.shape} of {self.bytes} bytes, and {size - self.start} follow; "
                "it is cut off or damaged"
            )

    def array(self, content: bytes) -> NDArray[Any]:
        """The array of these bytes."""
        if len(content) != self.bytes:
            raise self._error(f"it ends after {len(content)} of {self.bytes} bytes")
        if self.dtype.kind == "U":
            points = np.frombuffer(content, np.dtype(np.uint32).newbyteorder(self.dtype.byteorder))
            if ((points > 0x10FFFF) | ((points >= 0xD800) & (points <= 0xDFFF))).any():
                raise self._error("it holds texts with characters that do not exist; it is damaged")
        try:
            return np.frombuffer(content, self.dtype).reshape(self.shape, order="F" if self.by_columns else "C")
        except ValueError:
            raise self._error(f"its header claims an impossible array {self.shape}") from None

    def _error(self, text: str) -> ArrayFileError:
        return ArrayFileError(self._prefix + text)


def read_npy(path: Path) -> NDArray[Any]:
    """Read a `.npy` file of numbers or texts.

    Raises:
        ArrayFileError: It is none, is damaged, or holds Python objects.
    """
    require_file(path)
    try:
        with open(path, "rb") as file:
            header = _Header(file, os.fstat(file.fileno()).st_size)
            return header.array(file.read(header.bytes))
    except OSError as error:
        raise ArrayFileError(f"it cannot be read ({error.strerror or error})") from None


def map_npy(path: Path) -> NDArray[Any]:
    """Map a `.npy` file, so that only what is asked for is read.

    Raises:
        ArrayFileError: It is none, is damaged, or holds Python objects or nothing.
    """
    require_file(path)
    try:
        with open(path, "rb") as file:
            header = _Header(file, os.fstat(file.fileno()).st_size)
            order: Literal["F", "C"] = "F" if header.by_columns else "C"
            return np.memmap(file, header.dtype, "r", header.start, header.shape, order)
    except (OSError, ValueError, OverflowError) as error:
        raise ArrayFileError(f"it cannot be mapped ({error})") from None


def read_npz(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read some arrays of an `.npz` file.

    Args:
        path: The file.
        wanted: Whether an array of this name is read.

    Returns:
        The wanted arrays by name, and the names of the others.

    Raises:
        ArrayFileError: It is no such file, is damaged or encrypted, an array would be far larger than the file, or
            holds Python objects.
    """
    arrays, others = {}, []
    with _opened(path) as archive:
        for name in _names(archive):
            if not wanted(name):
                others.append(name)
                continue
            with _member(archive, name) as (file, header):
                if header.start + header.bytes > max(_ALWAYS_READ, _MOST_COMPRESSED * path.stat().st_size):
                    size = header.bytes / 2**30
                    raise ArrayFileError(
                        f"{name} would be {size:.1f} GiB, more than {_MOST_COMPRESSED} times the size of the "
                        "file; it looks like a zip bomb. If it is none, save it without compression"
                    )
                arrays[name] = header.array(file.read(header.bytes))
    return arrays, others


class NpzRows:
    """An array in an `.npz` file that is read row by row, so that it is never in memory as a whole.

    Rows may be asked for in any order; in the file's order it is decompressed once. The whole of it is decompressed and
    compared with its checksum first, so that no row of a damaged file is taken for a good one.

    Raises:
        ArrayFileError: It is damaged, holds Python objects, or is stored by columns and large.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        with _opened(path) as archive, _member(archive, name) as (file, header):
            if header.dtype.kind not in "fiu" or len(header.shape) < 2:
                raise ArrayFileError(
                    f"{name} is {header.dtype} {header.shape}; expected numbers, a row of correlations or a matrix "
                    "per subject"
                )
            row = math.prod(header.shape[1:]) * header.dtype.itemsize
            if row > _ALWAYS_READ:
                raise ArrayFileError(f"a row of {name} would be {row / 2**30:.1f} GiB")
            if header.by_columns and header.bytes > _ALWAYS_READ:
                raise ArrayFileError(
                    f"{name} is stored column by column (Fortran order) and is too large to be turned here "
                    f"({header.bytes / 2**30:.1f} GiB); save numpy.ascontiguousarray of it"
                )
            # What `matrices[:, rows, columns]` gives is stored by columns, so that no subject's values lie together.
            self._turned = header.array(file.read(header.bytes)) if header.by_columns else None
            # The checksum is compared when the end is reached.
            while file.read(_CHUNK):
                pass
        self.shape: tuple[int, ...] = header.shape
        self._header = header
        self._row = row
        # Open for as long as rows are asked for.
        self._file: IO[bytes] = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, index: int) -> NDArray[Any]:
        """One row.

        Raises:
            ArrayFileError: The file was changed since it was opened.
        """
        if self._turned is not None:
            return self._turned[index]
        try:
            self._file.seek(self._header.start + index * self._row)
            content = self._file.read(self._row)
            return np.frombuffer(content, self._header.dtype).reshape(self.shape[1:])
        except _ZIP_ERRORS as error:
            raise ArrayFileError(f"row {index} of {self.name} cannot be read ({_reason(error)})") from None


def require_file(path: Path) -> None:
    """Make sure that there is something to read, before anything is opened.

    Raises:
        ArrayFileError: There is no file, or an empty one.
    """
    fault = file_fault(path) or ("" if path.stat().st_size else "is empty")
    if fault:
        raise ArrayFileError(f"it {fault}")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except ArrayFileError:
        raise
    except _ZIP_ERRORS as error:
        raise ArrayFileError(f"it is no .npz file, or it is damaged ({_reason(error)})") from None


def _names(archive: zipfile.ZipFile) -> list[str]:
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ArrayFileError(f"it holds {', '.join(doubled)} more than once")
    return names


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], _Header]]:
    info = archive.getinfo(f"{name}.npy")
    if info.flag_bits & 1:
        raise ArrayFileError(f"{name} is encrypted; save it without a password")
    with archive.open(info) as file:
        yield file, _Header(file, info.file_size, name)


def _reason(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
