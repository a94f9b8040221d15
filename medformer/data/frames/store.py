"""Frames at the network's size: read from their files, or kept on disk from the first reading on.

In the store's folder lies a file for each image and one for each mask. Its name is the hash of all that decides its
pixels: the contents of the files, the size, the rule of the mask, and the versions of this code and of the decoders. So
folds and a resumed run share the files, and a picture that changed is read anew. Each file ends with a checksum: what a
bad disk damaged is made again. The pixels are memory-mapped, so that loader processes share them. What has no room is
read from its own files every time; the pixels are the same.
"""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.frames.transforms import resize_image, resize_mask
from medformer.errors import DataError, ResourceError, counted
from medformer.files import digest, file_fault, write_bytes
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import decode_mask
from medformer.progress import Reporter, SilentReporter

FORMAT = "medformer-frames/1"
"""Another number makes every frame be read again; it changes with the pixels that `read_frame` gives."""

SPARE = 1e9
"""Bytes of the disk that stay free."""

_CHECKSUM = 4

Frame = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""RGB (H, W, 3) and foreground (H, W); without masks, the foreground is empty."""

_Contents = tuple[bytes | None, bytes | None]


def read_frame(case: Case, size: tuple[int, int], *, masks: bool = True, contents: _Contents = (None, None)) -> Frame:
    """Read image and mask of a case, and resize them to `size` (rows, columns).

    Args:
        case: Of a manifest.
        size: Of the result.
        masks: Whether the mask is read.
        contents: The bytes of both files, where they were read before; the files are not opened then.

    Raises:
        DataError: One cannot be read, or their sizes differ.
    """
    image = read_image(case.required_image(), contents[0])
    if not masks:
        return resize_image(image, size), np.zeros(size, np.bool_)
    mask = decode_mask(case.required_mask(), case.foreground, contents[1]).foreground
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"Case '{case.id}': the image {case.image} has {image.shape[0]} x {image.shape[1]} pixels "
            f"(rows x columns), but its mask {case.mask} has {mask.shape[0]} x {mask.shape[1]}. "
            "Both must have the same size; export the mask again at the image's size."
        )
    return resize_image(image, size), resize_mask(mask, size)


class FrameStore:
    """Frames of one size; a copy of it in another process reads the same files."""

    def __init__(
        self, folder: Path, size: tuple[int, int], *, limit_gb: float, hashes: Mapping[Path, str] | None = None
    ) -> None:
        """Keep nothing yet.

        Args:
            folder: Where the pixels are kept; several stores and programs may share it.
            size: Of the frames, rows x columns.
            limit_gb: How much the folder may hold; 0 keeps nothing.
            hashes: SHA-256 of files by path, where they are known; the others are computed.
        """
        self.folder = Path(folder)
        self.size = (int(size[0]), int(size[1]))
        self.limit_gb = limit_gb
        self._hashes = dict(hashes or {})
        self._kept: dict[Any, tuple[str, ...]] = {}

    def keep(self, cases: Sequence[Case], *, masks: bool = True, reporter: Reporter | None = None) -> None:
        """Read what is not kept yet, as far as there is room, and say where it lies.

        Args:
            cases: Whose frames will be asked for.
            masks: Whether with their masks.
            reporter: Receives one step per case.

        Raises:
            DataError: A case cannot be read, or its files are not those whose hashes were given.
        """
        if not self.limit_gb or not cases:
            return
        reporter = reporter or SilentReporter()
        room, lock, added = self._room(), threading.Lock(), 0
        rows, columns = self.size
        each = rows * columns * (4 if masks else 3)

        def hold(case: Case) -> tuple[str, ...] | None:
            nonlocal room, added
            read: dict[Path, bytes] = {}
            keys = self._keys(case, masks, read)
            lacking = [key for key in keys if not _whole(self._path(key))]
            if lacking:
                with lock:
                    if room < each:
                        return None
                    room -= each
                try:
                    self._add(case, keys, lacking, read)
                except ResourceError:
                    with lock:
                        room = 0.0
                    return None
                with lock:
                    added += 1
            return keys

        # Threads: decoding and resizing leave Python to the others.
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            for case, keys in zip(
                cases, reporter.track(pool.map(hold, cases), "Reading frames", len(cases)), strict=True
            ):
                if keys is not None:
                    self._kept[_files(case, masks)] = keys
        finally:
            pool.shutdown(cancel_futures=True)
        here = sum(_files(case, masks) in self._kept for case in cases)
        if added:
            reporter.line(
                f"{counted(here, 'frame')} at {rows} x {columns} px kept decoded in {self.folder} until the run is "
                f"done ({here * each / 1e9:.2f} GB)."
            )
        if here < len(cases):
            reporter.line(
                f"Note: {counted(len(cases) - here, 'frame')} of {len(cases):,} will be read from their files again in "
                f"every epoch: {self.folder} may hold {self.limit_gb:g} GB (data.cache), and {SPARE / 1e9:g} GB of its "
                "disk stay free."
            )

    def load(self, case: Case, *, masks: bool = True) -> Frame:
        """Give what `read_frame` gives, from the disk where it is kept there; the arrays must not be written to."""
        keys = self._kept.get(_files(case, masks), ())
        kept = [_mapped(self._path(key), shape) for key, shape in zip(keys, ((*self.size, 3), self.size), strict=False)]
        if not kept or any(array is None for array in kept):
            return read_frame(case, self.size, masks=masks)
        image = kept[0]
        mask = kept[1].view(np.bool_) if masks else np.zeros(self.size, np.bool_)
        return image, mask

    def _keys(self, case: Case, masks: bool, read: dict[Path, bytes]) -> tuple[str, ...]:
        """The key of the image, and with masks that of the mask, which says that their sizes were compared."""
        image = digest([FORMAT, PIL.__version__, cv2.__version__, self.size, self._hash(case.required_image(), read)])[
            :32
        ]
        if not masks:
            return (image,)
        return image, digest([image, case.foreground, self._hash(case.required_mask(), read)])[:32]

    def _add(self, case: Case, keys: Sequence[str], lacking: Sequence[str], read: dict[Path, bytes]) -> None:
        """Read a case from files that have the expected content, and keep what is lacking of it."""
        masks = len(keys) > 1
        image = self._content(case.required_image(), read)
        mask = self._content(case.required_mask(), read) if masks else None
        frame = read_frame(case, self.size, masks=masks, contents=(image, mask))
        for key, array in zip(keys, frame, strict=False):
            if key in lacking:
                file = BytesIO()
                np.save(file, array.view(np.uint8), allow_pickle=False)
                content = file.getvalue()
                write_bytes(self._path(key), content + zlib.crc32(content).to_bytes(_CHECKSUM, "little"))

    def _hash(self, path: Path, read: dict[Path, bytes]) -> str:
        """Hash of a file, known or of its bytes, which `read` then holds."""
        if path in self._hashes:
            return self._hashes[path]
        read[path] = _bytes(path)
        return sha256(read[path]).hexdigest()

    def _content(self, path: Path, read: Mapping[Path, bytes]) -> bytes:
        if path in read:
            return read[path]
        content = _bytes(path)
        if sha256(content).hexdigest() != self._hashes[path]:
            raise DataError(
                f"{path} has changed since this run looked at it; expected the file of then. Restore it, or start "
                "again with --overwrite."
            )
        return content

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def _room(self) -> float:
        """Bytes that may be added."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = 0
            for file in self.folder.iterdir():
                # What a fold beside this one is writing gets another name meanwhile.
                with suppress(FileNotFoundError):
                    held += file.stat().st_size
            return min(self.limit_gb * 1e9 - held, shutil.disk_usage(self.folder).free - SPARE)
        except OSError:
            return 0.0


def _files(case: Case, masks: bool) -> Any:
    """What a frame is read from; ids may be the same in two manifests."""
    return (case.image, case.mask, case.foreground) if masks else case.image


def _whole(path: Path) -> bool:
    """Whether a file is there as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return zlib.crc32(content[:-_CHECKSUM]).to_bytes(_CHECKSUM, "little") == content[-_CHECKSUM:]


def _mapped(path: Path, shape: tuple[int, ...]) -> Any:
    """Map an array into memory; None where there is none of this shape, since the file was removed or cut off."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(array) if array.shape == shape and array.dtype == np.uint8 else None


def _bytes(path: Path) -> bytes:
    fault = file_fault(path)
    try:
        if not fault:
            return path.read_bytes()
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    raise DataError(f"{path} {fault}; expected a picture. Correct the path, or restore the file.")
