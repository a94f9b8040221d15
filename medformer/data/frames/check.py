"""Decoding every case and saying everything that is wrong with each of them, before hours are spent on training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medformer.data.frames.fingerprints import pixel_hash
from medformer.data.manifest import Case
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.files import sha256
from medformer.imaging.images import image_info, read_image, read_mask_values
from medformer.progress import Reporter, SilentReporter

SMALLEST_SIDE = 16
"""Shortest side of a usable picture, px."""

GRAY_RANGE = (32, 223)
"""Mask values strictly between these are neither background nor foreground; JPEG noise stays outside of them."""

GRAY_LIMIT = 0.05
"""Share of such pixels above which a mask is no mask. Contours blurred by JPEG or by resizing stay below it."""


def check_cases(
    cases: Sequence[Case], *, require_masks: bool = True, reporter: Reporter | None = None
) -> list[Problem]:
    """Decode every image and mask, and list every problem of every case.

    Args:
        cases: What to check.
        require_masks: Whether a case without a mask is a problem.
        reporter: Told about the progress.

    Returns:
        Problems in the order of the cases; duplicates follow. See `problems.REASONS` for the codes.
    """
    reporter = reporter or SilentReporter()
    reporter.start("checking", len(cases))
    problems: list[Problem] = []
    duplicates: list[Problem] = []
    seen = _Seen({}, {})
    try:
        for case in cases:
            image = _check_image(case)
            problems.extend(image.problems)
            problems.extend(_check_mask(case, image, require_masks))
            duplicates.extend(seen.add(case, image))
            reporter.advance()
    finally:
        reporter.finish()
    return problems + duplicates


@dataclass(frozen=True)
class _CheckedImage:
    """What the decoding of one image gave; empty hashes and no size where it failed."""

    problems: tuple[Problem, ...] = ()
    size: tuple[int, int] | None = None
    file_hash: str = ""
    pixel_hash: str = ""


def _check_image(case: Case) -> _CheckedImage:
    path = str(case.image)
    if not case.required_image().is_file():
        return _CheckedImage((Problem(case.id, path, "missing-image", "the image does not exist"),))
    found = []
    file_hash = sha256(case.required_image())
    if case.sha256 and file_hash != case.sha256:
        found.append(Problem(case.id, path, "changed", "its hash differs from the manifest's; prepare again"))
    try:
        info = image_info(case.required_image())
        image = read_image(case.required_image())
    except DataError as error:
        return _CheckedImage((*found, Problem(case.id, path, "corrupt", str(error))), None, file_hash)
    if min(image.shape[:2]) < SMALLEST_SIDE:
        detail = f"{info.height} x {info.width} px; expected at least {SMALLEST_SIDE} on each side"
        found.append(Problem(case.id, path, "tiny", detail))
    if info.mode != "RGB":
        detail = f"mode {info.mode} ({info.format}); it is read as 8-bit RGB"
        found.append(Problem(case.id, path, "wrong-mode", detail))
    return _CheckedImage(tuple(found), (info.height, info.width), file_hash, pixel_hash(image))


def _check_mask(case: Case, image: _CheckedImage, require_masks: bool) -> Iterable[Problem]:
    mask = case.mask
    if mask is None:
        if require_masks:
            yield Problem(case.id, str(case.image), "missing-mask", "the manifest gives none")
        return
    if not mask.is_file():
        yield Problem(case.id, str(mask), "missing-mask", "the mask does not exist")
        return
    if image.file_hash and image.file_hash == sha256(mask):
        yield Problem(case.id, str(mask), "mask-is-image", "image and mask are the same file")
        return
    try:
        values = read_mask_values(mask)
    except DataError as error:
        yield Problem(case.id, str(mask), "corrupt", str(error))
        return
    if image.size is not None and values.shape != image.size:
        detail = f"the mask is {values.shape[0]} x {values.shape[1]} px, the image {image.size[0]} x {image.size[1]}"
        yield Problem(case.id, str(mask), "size-mismatch", detail)
    yield from _check_values(case, mask, values)


def _check_values(case: Case, mask: Path, values: NDArray[np.uint8]) -> Iterable[Problem]:
    low, high = GRAY_RANGE
    gray = float(np.mean((values > low) & (values < high)))
    # Two values are binary whatever they are, as in a mask painted in one palette color.
    if gray > GRAY_LIMIT and len(np.unique(values)) > 2:
        detail = f"{gray:.1%} of its pixels lie between {low} and {high}; expected at most {GRAY_LIMIT:.0%}"
        yield Problem(case.id, str(mask), "non-binary-mask", detail)
        return
    foreground = values >= 128
    if not foreground.any():
        yield Problem(case.id, str(mask), "empty-mask", f"no pixel reaches 128; the largest value is {values.max()}")
    elif foreground.all():
        yield Problem(case.id, str(mask), "full-mask", f"every pixel reaches 128; the smallest value is {values.min()}")


@dataclass(frozen=True)
class _Seen:
    """Hashes met so far, and the case that each was met in first."""

    files: dict[str, str]
    pixels: dict[str, str]

    def add(self, case: Case, image: _CheckedImage) -> Iterable[Problem]:
        """Compare a case with those before it; the stronger statement wins."""
        if not image.file_hash:
            return
        earlier = self.files.setdefault(image.file_hash, case.id)
        if earlier != case.id:
            yield Problem(case.id, str(case.image), "duplicate-file", f"the same file as {earlier}")
            return
        if image.pixel_hash:
            earlier = self.pixels.setdefault(image.pixel_hash, case.id)
            if earlier != case.id:
                yield Problem(case.id, str(case.image), "duplicate-pixels", f"the same pixels as {earlier}")
