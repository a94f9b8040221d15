"""Small overlays of single cases for the gallery, as `data:` URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medformer.data.manifest import Case, read_manifest
from medformer.errors import DataError, MedformerError
from medformer.imaging.images import read_image, read_mask
from medformer.imaging.overlay import draw_overlay
from medformer.reporting.facts import Facts
from medformer.reporting.figures.volumes import LEGEND, draw_volume

LONGEST_SIDE = 320
"""Pixels, about what a picture gets on the page: contours are one pixel wide and would vanish in a larger drawing."""

OUTLINES = (
    "Yellow is the prediction, blue the reference, each with a dark rim; a yellow line along the edge means that the "
    "prediction reaches it."
)


class CasePictures:
    """Finds the picture, truth and mask of a case through the run's manifest.

    Attributes:
        count: Pictures drawn so far.
        size: Characters that they take in the page.
        wide: Whether they are of three planes of a volume.
        legend: How to read them.
    """

    def __init__(self, facts: Facts) -> None:
        self.count = 0
        self.size = 0
        self.wide = bool(facts.labels)
        self.legend = LEGEND if self.wide else OUTLINES
        self._names = dict(next(iter(facts.volume_plans.values())).labels) if facts.volume_plans else {}
        self._run = facts.run
        self._cases: Mapping[str, Case] = {}
        self._reason = ""
        try:
            self._cases = read_manifest(
                Path(str(facts.record.get("manifest", ""))),
                ungrouped="each",
                root=Path(str(facts.record["data_root"])) if facts.record.get("data_root") else None,
            ).by_id
        except MedformerError as error:
            self._reason = f"the manifest is not available ({error})"

    def overlay(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Draw a case.

        Returns:
            A `data:` URI and an empty reason; or an empty URI and the reason why there is no picture.
        """
        case = self._cases.get(str(row["id"]))
        if case is None:
            return "", self._reason or "the manifest does not list this case any more"
        mask_path = self._mask_path(row)
        if mask_path is None:
            return "", "the exported mask is not there any more"
        try:
            drawn = draw_volume(case, mask_path, self._names) if self.wide else _draw_image(case, mask_path)
        except MedformerError as error:
            return "", str(error)
        buffer = BytesIO()
        Image.fromarray(drawn).save(buffer, format="JPEG", quality=88)
        uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        self.count += 1
        self.size += len(uri)
        return uri, ""

    def _mask_path(self, row: Mapping[str, Any]) -> Path | None:
        """The exported mask, never outside of the run folder whatever the table says."""
        named = str(row.get("mask") or f"masks/{row['id']}{'.nii.gz' if self.wide else '.png'}")
        path = (self._run.path / named).resolve()
        return path if path.is_relative_to(self._run.path.resolve()) and path.is_file() else None


def _draw_image(case: Case, mask_path: Path) -> NDArray[np.uint8]:
    image = read_image(case.required_image())
    mask = read_mask(mask_path)
    truth = None if case.mask is None else read_mask(case.mask)
    if mask.shape != image.shape[:2] or (truth is not None and truth.shape != mask.shape):
        raise DataError("the image and its masks differ in size")
    scale = LONGEST_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return draw_overlay(small, _shrink(mask, size), None if truth is None else _shrink(truth, size))


def _shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=np.bool_)
