"""One pass over the frames: what is wrong with each, and what identifies it, before hours are spent on training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from medformer.data.frames.descriptors import descriptor, pixel_hash, thumbnail
from medformer.data.inventory import Inventory, Record, take_inventory
from medformer.data.manifest import Case
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.imaging.images import image_info, read_image, read_mask_values
from medformer.progress import Reporter

VERSION = 1
"""Of what `describe_frame` finds; another number makes every cache be built again."""

SMALLEST_SIDE = 16
"""Shortest side of a usable picture, px."""

GRAY_RANGE = (32, 223)
"""Mask values strictly between these are neither background nor foreground; JPEG noise stays outside of them."""

GRAY_LIMIT = 0.05
"""Largest share of such pixels in a usable mask. Contours blurred by JPEG or by resizing stay below it."""


def inspect_frames(
    cases: Sequence[Case],
    *,
    image_size: tuple[int, int] | None = None,
    require_masks: bool = True,
    cache: Path | None = None,
    reporter: Reporter | None = None,
) -> Inventory:
    """Describe every frame, each file opened once; see `describe_frame` and `take_inventory`."""
    # Another version of a decoder may give other pixels, and so other hashes of the same file.
    settings = {
        "frames": VERSION,
        "image_size": image_size,
        "require_masks": require_masks,
        "decoders": [PIL.__version__, cv2.__version__],
    }
    describe = partial(describe_frame, image_size=image_size, require_masks=require_masks)
    workers = min(4, os.cpu_count() or 1)
    return take_inventory(cases, describe, cache=cache, settings=settings, workers=workers, reporter=reporter)


def describe_frame(case: Case, *, image_size: tuple[int, int] | None = None, require_masks: bool = True) -> Record:
    """Read image and mask of a case once.

    Args:
        case: The frame.
        image_size: Network input (rows, columns) in pixels, which `thumbnail` shows; None to make none.
        require_masks: Whether a case without a mask has a problem.

    Returns:
        * problems: see `problems.REASONS` for the codes.
        * hashes: `file`, `mask`, and `pixels` of the decoded image.
        * facts: `height` and `width` of the image, px, and `foreground`, the share of the mask's pixels.
        * arrays: `descriptor` and `thumbnail` of the image.

        What could not be found because of a problem is absent.
    """
    made = _Description(case)
    made.read_image(image_size)
    made.read_mask(require_masks)
    return Record(case.id, tuple(made.problems), made.hashes, made.facts, made.arrays)


class _Description:
    """What has been found of one case so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.image = case.required_image()
        self.problems: list[Problem] = []
        self.hashes: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def read_image(self, image_size: tuple[int, int] | None) -> None:
        path = self.image
        if not path.is_file():
            self._found("missing-image", path, "the image does not exist")
            return
        content = self._content("file", path)
        if self.case.sha256 and self.hashes.get("file", self.case.sha256) != self.case.sha256:
            self._found("changed", path, "its hash differs from the manifest's; prepare again")
        try:
            info = image_info(path, content)
            image = read_image(path, content)
        except DataError as error:
            self._found("corrupt", path, str(error))
            return
        if min(image.shape[:2]) < SMALLEST_SIDE:
            detail = f"{info.height} x {info.width} px; expected at least {SMALLEST_SIDE} on each side"
            self._found("tiny", path, detail)
        if info.mode != "RGB":
            self._found("wrong-mode", path, f"mode {info.mode} ({info.format}); it is read as 8-bit RGB")
        self.hashes["pixels"] = pixel_hash(image)
        self.facts |= {"height": info.height, "width": info.width}
        self.arrays["descriptor"] = descriptor(image)
        if image_size is not None:
            self.arrays["thumbnail"] = thumbnail(image, image_size)

    def read_mask(self, required: bool) -> None:
        path = self.case.mask
        if path is None:
            if required:
                self._found("missing-mask", self.image, "the manifest gives none")
            return
        if not path.is_file():
            self._found("missing-mask", path, "the mask does not exist")
            return
        content = self._content("mask", path)
        if "mask" in self.hashes and self.hashes["mask"] == self.hashes.get("file"):
            self._found("mask-is-image", path, "image and mask are the same file")
            return
        try:
            values = read_mask_values(path, content)
        except DataError as error:
            self._found("corrupt", path, str(error))
            return
        rows, columns = values.shape
        height, width = self.facts.get("height", rows), self.facts.get("width", columns)
        if (rows, columns) != (height, width):
            detail = f"the mask is {rows} x {columns} px, the image {height} x {width}"
            self._found("size-mismatch", path, detail)
        self._check_values(path, values)

    def _check_values(self, path: Path, values: NDArray[np.uint8]) -> None:
        low, high = GRAY_RANGE
        gray = float(np.mean((values > low) & (values < high)))
        # Two values are binary whatever they are, as in a mask painted in one palette color.
        if gray > GRAY_LIMIT and len(np.unique(values)) > 2:
            detail = f"{gray:.1%} of its pixels lie between {low} and {high}; expected at most {GRAY_LIMIT:.0%}"
            self._found("non-binary-mask", path, detail)
            return
        foreground = values >= 128
        self.facts["foreground"] = float(foreground.mean())
        if not foreground.any():
            self._found("empty-mask", path, f"no pixel reaches 128; the largest value is {values.max()}")
        elif foreground.all():
            self._found("full-mask", path, f"every pixel reaches 128; the smallest value is {values.min()}")

    def _content(self, kind: str, path: Path) -> bytes | None:
        """The bytes of a file, hashed; None where they cannot be read, which decoding then explains."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        self.hashes[kind] = sha256(content).hexdigest()
        return content

    def _found(self, reason: str, path: Path, detail: str) -> None:
        self.problems.append(Problem(self.case.id, str(path), reason, detail))
