"""One pass over the frames: what is wrong with each, and what identifies it, before hours are spent on training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import PIL
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.frames.descriptors import descriptor, pixel_hash, thumbnail
from medformer.data.inventory import Inventory, Record, take_inventory
from medformer.data.problems import Problem
from medformer.errors import DataError, counted
from medformer.files import file_fault
from medformer.imaging.images import image_info, read_image
from medformer.imaging.mask_rule import MaskValuesError, decode_mask
from medformer.progress import Reporter

VERSION = 2
"""Of what `describe_frame` finds; another number makes every cache be built again."""

SMALLEST_SIDE = 16
"""Shortest side of a usable picture, px."""


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
        "foreground": {str(case.mask): case.foreground for case in cases if case.foreground},
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
        * facts: `height` and `width` of the image, px, `foreground`, the share of the mask's pixels, and `value`, which
          stands for foreground in the mask (see `Mask.value`).
        * arrays: `descriptor` and `thumbnail` of the image.

        What could not be found because of a problem is absent.
    """
    made = _Description(case)
    made.read_image(image_size)
    made.read_mask(require_masks)
    return Record(case.id, tuple(made.problems), made.hashes, made.facts, made.arrays)


def foreground_problems(cases: Sequence[Case], records: Mapping[str, Record]) -> list[Problem]:
    """What the masks say together: each site stores foreground in one way, some have it, and each is of one picture.

    A mask by itself cannot tell whether its 255 is the lesion or, beside other masks of 0 and 1, something else.
    """
    problems = []
    values: dict[str, dict[str, list[Case]]] = {}
    for case in cases:
        value = records[case.id].facts.get("value")
        if value:
            values.setdefault(case.site, {}).setdefault(value, []).append(case)
    for site, found in values.items():
        if len(found) > 1:
            usual = max(found, key=lambda value: len(found[value]))
            counts = ", ".join(f"{value} in {counted(len(some), 'mask')}" for value, some in sorted(found.items()))
            detail = (
                f"foreground is stored as {counts}{f' of {site}' if site else ''}; expected one value. Name those that "
                f"are foreground, such as --foreground {','.join(sorted(found))}"
            )
            problems += [
                Problem(case.id, str(case.mask), "non-binary-mask", detail)
                for value, some in found.items()
                if value != usual
                for case in some
            ]
    shares = [records[case.id].facts["foreground"] for case in cases if "foreground" in records[case.id].facts]
    if len(shares) == len(cases) and not any(shares):
        detail = f"no mask of {counted(len(cases), 'case')} has foreground, so there is nothing to learn"
        problems.append(Problem(cases[0].id, str(cases[0].mask), "nothing-marked", detail))
    large = [share > _HALF for share in shares if share]
    if len(large) >= _ENOUGH and sum(large) >= _NEARLY_ALL * len(large):
        detail = (
            f"{sum(large)} of {counted(len(large), 'mask')} mark more than half of their picture: are lesion and "
            "background exchanged? Look at one; --foreground names the values that are foreground"
        )
        problems.append(Problem(cases[0].id, str(cases[0].mask), "mostly-marked", detail))
    return [*problems, *_shared_masks(cases, records)]


_HALF, _NEARLY_ALL, _ENOUGH = 0.5, 0.8, 5
"""Share of a picture, and of at least so many masks, from which masks look inverted."""


def _shared_masks(cases: Sequence[Case], records: Mapping[str, Record]) -> list[Problem]:
    """Masks that mark something and are given to several pictures; pictures without a lesion may share an empty one."""
    first: dict[str, Case] = {}
    problems = []
    for case in cases:
        if case.mask is None or not records[case.id].facts.get("foreground"):
            continue
        earlier = first.setdefault(os.path.realpath(case.mask), case)
        if earlier is not case and earlier.images != case.images:
            detail = f"it is the mask of '{earlier.id}' too, which is another picture; give each picture its own"
            problems.append(Problem(case.id, str(case.mask), "shared-mask", detail))
    return problems


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
        fault = file_fault(path)
        if fault:
            self._found(_reason("missing-image", fault), path, f"the image {fault}")
            return
        content = self._content("file", path, self.case.sha256)
        try:
            info = image_info(path, content)
            image = read_image(path, content)
        except DataError as error:
            self._found("corrupt", path, str(error))
            return
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            detail = f"{height} x {width} px (height x width); expected at least {SMALLEST_SIDE} on each side"
            self._found("tiny", path, detail)
        if info.mode != "RGB":
            self._found("wrong-mode", path, f"mode {info.mode} ({info.format}); it is read as 8-bit RGB")
        self.hashes["pixels"] = pixel_hash(image)
        self.facts |= {"height": height, "width": width}
        self.arrays["descriptor"] = descriptor(image)
        if image_size is not None:
            self.arrays["thumbnail"] = thumbnail(image, image_size)

    def read_mask(self, required: bool) -> None:
        path = self.case.mask
        if path is None:
            if required:
                self._found("missing-mask", self.image, "the manifest gives none")
            return
        fault = file_fault(path)
        if fault:
            self._found(_reason("missing-mask", fault), path, f"the mask {fault}")
            return
        content = self._content("mask", path, self.case.covariates.get("mask_sha256", ""))
        if "mask" in self.hashes and self.hashes["mask"] == self.hashes.get("file"):
            self._found("mask-is-image", path, "image and mask are the same file")
            return
        try:
            mask = decode_mask(path, self.case.foreground, content)
        except DataError as error:
            reason = "non-binary-mask" if isinstance(error, MaskValuesError) else "corrupt"
            self._found(reason, path, str(error))
            return
        rows, columns = mask.foreground.shape
        height, width = self.facts.get("height", rows), self.facts.get("width", columns)
        if (rows, columns) != (height, width):
            detail = f"the mask is {rows} x {columns} px (height x width), the image {height} x {width}"
            self._found("size-mismatch", path, detail)
        self.facts |= {"foreground": float(mask.foreground.mean()), "value": mask.value}
        if not mask.foreground.any():
            named = f"no pixel has one of the values {', '.join(self.case.foreground)}" if self.case.foreground else ""
            self._found("empty-mask", path, named or "every pixel is 0")
        elif mask.foreground.all():
            self._found("full-mask", path, "every pixel is foreground")

    def _content(self, kind: str, path: Path, expected: str) -> bytes | None:
        """The bytes of a file, hashed; None where they cannot be read, which decoding then explains."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        self.hashes[kind] = sha256(content).hexdigest()
        if expected and self.hashes[kind] != expected.lower():
            self._found("changed", path, f"the hash of the {kind} differs from the manifest's; prepare again")
        return content

    def _found(self, reason: str, path: Path, detail: str) -> None:
        self.problems.append(Problem(self.case.id, str(path), reason, detail))


def _reason(missing: str, fault: str) -> str:
    return missing if fault.startswith("does not exist") else "not-readable"
