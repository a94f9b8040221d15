"""Pictures of single cases for the gallery, as `data:` URIs: outlines on an image, or three planes of a volume.

Each is kept in the run, so that the report can be written again where the data are not.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medformer.data.cases import Case
from medformer.data.manifest import read_manifest
from medformer.errors import DataError, MedformerError
from medformer.files import digest, sha256, write_bytes
from medformer.foreground import Foreground
from medformer.imaging.geometry import Geometry
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.imaging.masks import draw_overlay
from medformer.imaging.planes import draw_planes, thick_axis
from medformer.imaging.volumes import read_geometry, read_labels, read_volume
from medformer.reporting.finished_run import FinishedRun
from medformer.reporting.wording import label_title

LONGEST_SIDE = 320
"""Pixels, about what a picture gets on the page: contours are one pixel wide and would vanish in a larger drawing."""

SIDE = 250
"""Pixels along the longest edge of the part of a volume that is shown."""

_DRAWING = "picture/1"
"""How pictures are drawn; another number has kept ones drawn anew."""

_SPOT = 0.04
"""Radius of the ring around a place, as a share of the longest side of the image."""

_LEAST_SHARE = 3  # of the volume's edge that is always shown: one third


class CasePictures:
    """Finds the image, reference and mask of a case through the run's manifest, and draws them.

    Attributes:
        count: Pictures drawn so far.
        size: Characters that they take up in the page.
        of_volumes: Whether they show a volume, and are wide.
        planes: Whether any shows three planes.
        slices: Whether any shows the slices of a scan that has thick ones.
    """

    def __init__(self, run: FinishedRun) -> None:
        self.count = 0
        self.size = 0
        self.of_volumes = bool(run.labels)
        self.planes = self.slices = False
        self._names = dict(next(iter(run.volume_plans.values())).labels) if run.volume_plans else {}
        self._folder = run.folder
        self._cases: Mapping[str, Case] = {}
        self._reason = ""
        self._foreground: Foreground = ()
        try:
            self._cases = read_manifest(
                Path(str(run.record.get("manifest", ""))),
                ungrouped="each",
                root=Path(str(run.record["data_root"])) if run.record.get("data_root") else None,
            ).by_id
        except MedformerError as error:
            self._reason = f"the manifest is not available ({error})"
        if run.record.get("task") == "polyp":
            self._foreground = tuple(map(str, run.config.get("data", {}).get("foreground", ())))

    def overlay(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Draw a case, or take the picture that was drawn of this mask before.

        Returns:
            A `data:` URI and an empty reason; or an empty URI and the reason why there is no picture.
        """
        mask_path = self._mask_path(row)
        if mask_path is None:
            return "", "the exported mask is not there any more"
        try:
            if self.of_volumes:
                slices = thick_axis(read_geometry(mask_path).affine) is not None
                self.slices, self.planes = self.slices or slices, self.planes or not slices
        except MedformerError as error:
            return "", str(error)
        drawn_of = [str(row["id"]), str(row.get("repeat", 0)), sha256(mask_path)]
        return self._kept(drawn_of, lambda: self._draw(str(row["id"]), mask_path))

    def place(self, name: str, place: Sequence[float] = ()) -> tuple[str, str]:
        """Draw an image with its reference, and a ring around a place if one is given, or take the drawing of before.

        Args:
            name: Id of the case.
            place: As shares of height and width.

        Returns:
            As `overlay`.
        """
        return self._kept([name, "place", *map(str, place)], lambda: self._draw(name, tuple(place)))

    def _kept(self, drawn_of: Sequence[str], draw: Callable[[], bytes]) -> tuple[str, str]:
        kept = self._folder.gallery / f"{digest([_DRAWING, *drawn_of])[:32]}.jpg"
        try:
            picture = kept.read_bytes() if kept.is_file() else draw()
        except MedformerError as error:
            return "", str(error)
        if not kept.is_file():
            write_bytes(kept, picture)
        uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")
        self.count += 1
        self.size += len(uri)
        return uri, ""

    def _draw(self, name: str, marked: Path | tuple[float, ...]) -> bytes:
        """Draw a case as JPEG, with an exported mask or, in an image, with a place.

        Raises:
            DataError: The case or a file of it is not there any more or damaged, or sizes differ.
        """
        case = self._cases.get(name)
        if case is None:
            raise DataError(self._reason or "the manifest does not list this case any more")
        if isinstance(marked, tuple):
            drawn = _draw_image(case, partial(_spot, marked), self._foreground or case.foreground)
        elif self.of_volumes:
            drawn = self._draw_volume(case, marked)
        else:
            drawn = _draw_image(case, lambda size: read_mask(marked), self._foreground or case.foreground)
        buffer = BytesIO()
        Image.fromarray(drawn).save(buffer, format="JPEG", quality=88)
        return buffer.getvalue()

    def _draw_volume(self, case: Case, mask_path: Path) -> NDArray[np.uint8]:
        """Draw a case with its predicted label map and, if it has one, the reference.

        Args:
            case: Its first channel is drawn.
            mask_path: The predicted label map.

        Returns:
            uint8 (H, W, 3).

        Raises:
            DataError: A file is missing or damaged, or the sizes differ.
        """
        volume = read_volume(case.required_image(), nonfinite="keep")
        image, grid = volume.array, volume.geometry
        prediction = read_labels(mask_path, grid)
        truth = None if case.mask is None else read_labels(case.mask, grid).array
        maps = [prediction.array, *([] if truth is None else [truth])]
        if any(array.shape != image.shape for array in maps):
            raise DataError("the image and its label maps differ in size")
        values = {int(value) for array in maps for value in np.unique(array) if value}
        names = self._names or {value: str(value) for value in sorted(values)}
        box = _around(maps)
        return draw_planes(
            np.nan_to_num(image[box], posinf=0.0, neginf=0.0),
            prediction.array[box],
            _part_of_grid(prediction.geometry, box),
            {value: label_title(name) for value, name in names.items()},
            truth=None if truth is None else truth[box],
            side=SIDE,
        )

    def _mask_path(self, row: Mapping[str, Any]) -> Path | None:
        """The exported mask. A path outside of the run folder is ignored, whatever the table says."""
        named = str(row.get("mask") or f"masks/{row['id']}{'.nii.gz' if self.of_volumes else '.png'}")
        path = (self._folder.path / named).resolve()
        return path if path.is_relative_to(self._folder.path.resolve()) and path.is_file() else None


def _draw_image(
    case: Case, mask_of: Callable[[tuple[int, int]], NDArray[np.bool_]], foreground: Foreground
) -> NDArray[np.uint8]:
    image = read_image(case.required_image())
    mask = mask_of(image.shape[:2])
    truth = None if case.mask is None else read_mask(case.mask, foreground)
    if mask.shape != image.shape[:2] or (truth is not None and truth.shape != mask.shape):
        raise DataError("the image and its masks differ in size")
    scale = LONGEST_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return draw_overlay(small, _shrink(mask, size), None if truth is None else _shrink(truth, size))


def _spot(place: tuple[float, ...], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A disk around a place of an image of `size`; empty without one."""
    mask = np.zeros(size, np.bool_)
    if place:
        rows, columns = np.ogrid[: size[0], : size[1]]
        row, column = (share * length for share, length in zip(place, size, strict=True))
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= (_SPOT * max(size)) ** 2
    return mask


def _shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=np.bool_)


def _around(maps: Sequence[NDArray[Any]]) -> tuple[slice, ...]:
    """A box twice as wide as all labels, and no less than a third of the volume; the volume when nothing is labeled."""
    box = []
    for axis, length in enumerate(maps[0].shape):
        # One plane at a time: a mask of the whole volume would cost as much as the volume.
        filled = [index for index in range(length) if any(array.take(index, axis).any() for array in maps)]
        if not filled:
            return (slice(None),) * maps[0].ndim
        first, stop = filled[0], filled[-1] + 1
        width = min(length, max(2 * (stop - first), -(-length // _LEAST_SHARE)))
        start = min(max(0, (first + stop - width) // 2), length - width)
        box.append(slice(start, start + width))
    return tuple(box)


def _part_of_grid(geometry: Geometry, box: Sequence[slice]) -> Geometry:
    """The grid of a part of a volume."""
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start or 0 for side in box]
    first, second, third = (len(range(*side.indices(length))) for side, length in zip(box, geometry.shape, strict=True))
    return Geometry((first, second, third), affine)
