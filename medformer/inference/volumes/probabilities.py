"""Probability maps of a volume: one for each label, on the grid of the input, written without ever being in memory."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from medformer.errors import ResourceError
from medformer.files import atomic_path
from medformer.imaging.geometry import Geometry
from medformer.imaging.nifti_labels import map_planes, write_maps

Probabilities = Literal["none", "nii", "npz"]
"""`nii`: 255ths in a NIfTI file; `npz`: float16 in an NPZ file."""

ENDINGS: Mapping[Probabilities, str] = {"nii": ".nii.gz", "npz": ".npz"}

FORMS: tuple[Probabilities, ...] = get_args(Probabilities)

_NPY: Any = npy_format  # has no types
IN_MEMORY = 256 * 2**20
"""Bytes of maps that are kept in memory; larger ones are pages of a file that has no name."""


def empty_maps(form: Probabilities, shape: tuple[int, int, int], labels: int, folder: Path | None) -> NDArray[Any]:
    """Room for the maps of a volume, (X, Y, Z, labels), in the type and the order in memory of the file they go into.

    Args:
        form: Of the file: uint8, 255 for a probability of 1, or float16.
        shape: X, Y, Z.
        labels: How many maps.
        folder: Where large ones are kept on disk; the system's default without one.

    Raises:
        ResourceError: There is no room on the disk.
    """
    dtype = np.dtype(np.uint8 if form == "nii" else np.float16)
    whole = (*shape, labels)
    size = int(np.prod(whole)) * dtype.itemsize
    if size <= IN_MEMORY:
        return np.zeros(whole, dtype, order="F")
    try:
        with tempfile.TemporaryFile(dir=None if folder is None else str(folder)) as file:
            # What is written to a page for which the disk has no room would end the process, so room is taken first.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=whole, order="F")
    except OSError as error:
        raise ResourceError(
            f"No room for the {size / 1e9:.3g} GB of probability maps in {folder or tempfile.gettempdir()}: {error}. "
            "Free some space, set TMPDIR to a larger disk, or leave --probabilities out."
        ) from error


def stored(probability: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Probabilities as maps hold them: rounded to 255ths, or to float16."""
    # Averages and resampled values leave [0, 1] by rounding alone.
    inside = np.clip(probability, 0.0, 1.0)
    return np.rint(inside * 255).astype(dtype) if dtype.kind == "u" else inside.astype(dtype)


def write_probabilities(
    path: Path, maps: NDArray[Any], labels: Mapping[int, str], like: Path, geometry: Geometry
) -> None:
    """Write the maps of a volume, and read them back before the file is kept.

    Args:
        path: A name that ends as `ENDINGS` say: `.nii.gz` holds a volume for each label, in the geometry of `like`;
            `.npz` the arrays `probabilities` (X, Y, Z, labels), `labels`, `names` and `affine` (4, 4).
        maps: Of `empty_maps`.
        labels: Value and name of each label, in the order of the maps.
        like: The image, which places them.
        geometry: Of the image.

    Raises:
        DataError: The maps do not have the image's shape.
        ResourceError: The file could not be written, or did not read back as it was written.
    """
    if not path.name.endswith(ENDINGS["npz"]):
        write_maps(path, maps, like)
        return
    few: dict[str, NDArray[Any]] = {
        "labels": np.array(list(labels), np.int64),
        "names": np.array(list(labels.values()), np.str_),
        "affine": geometry.affine,
    }
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("probabilities.npy", "w", force_zip64=True) as file:
                content = {"descr": _NPY.dtype_to_descr(maps.dtype), "fortran_order": True, "shape": maps.shape}
                _NPY.write_array_header_1_0(file, content)
                for piece in map_planes(maps):
                    file.write(piece)
            for name, array in few.items():
                with archive.open(f"{name}.npy", "w") as file:
                    _NPY.write_array(file, array, allow_pickle=False)
        if reason := _differs(temporary, map_planes(maps), maps):
            raise ResourceError(f"{path} was written, but {reason}. Check the disk; the file was not kept.")


def _differs(path: Path, pieces: Iterator[bytes], maps: NDArray[Any]) -> str:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("probabilities.npy") as file:
            _NPY.read_magic(file)
            shape, by_column, dtype = _NPY.read_array_header_1_0(file)
            if (shape, by_column, dtype) != (maps.shape, True, maps.dtype):
                return f"it reads as {dtype} {shape}"
            if any(file.read(len(piece)) != piece for piece in pieces) or file.read(1):
                return "its values differ from what was written"
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        return f"it cannot be read back ({error})"
    return ""
