"""Exporting segmented images: verified masks, optional probability maps and overlays, and a table of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.errors import DataError
from medformer.evaluation.masks.segmentation import binarize
from medformer.imaging.images import write_image
from medformer.imaging.masks import draw_overlay, write_mask, write_probability
from medformer.inference.export_table import Exports, ExportTable
from medformer.names import file_stems

Probabilities = Literal["none", "png", "npz"]

TABLE = "predictions.csv"

COLUMNS: tuple[str, ...] = (
    "id",
    "image",
    "height",
    "width",
    "threshold",
    "area_px",
    "area_fraction",
    "components",
    "confidence",
    "mask_file",
    "probability_file",
    "overlay_file",
    "outside",
    "image_sha256",
    "run_sha256",
)

_MASK, _PROBABILITY, _OVERLAY = "masks/{}.png", "probabilities/{}.", "overlays/{}.png"

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=int)


def export_case(
    out: Exports,
    case: str,
    image: NDArray[np.uint8] | None,
    probability: NDArray[np.float32],
    threshold: float,
    *,
    source: str = "",
    probabilities: Probabilities = "none",
    truth: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Write the files of one case: `masks/`, and where asked `probabilities/` and `overlays/`.

    Args:
        out: Where they go.
        case: The id.
        image: RGB uint8 (H, W, 3) to draw the overlay on; None writes no overlay.
        probability: float (H, W) in [0, 1] at the original size.
        threshold: A pixel is foreground where its probability is at least this.
        source: Where the image came from, for the table.
        probabilities: Whether and how to write the map: 8-bit PNG (rounded) or float32 NPZ (exact).
        truth: Boolean mask (H, W); its contour is drawn too.

    Returns:
        A value for each of `COLUMNS` but the hashes. Files are relative to the folder, empty where none was asked for.
        `components` counts 8-connected regions. `confidence` is the mean probability inside the mask, or 1 minus the
        highest probability when the mask is empty.

    Raises:
        DataError: The arrays do not fit each other, or the id cannot be one.
        ResourceError: A file could not be written, or did not read back as it was written.
    """
    stem, folder = out.stem(case), out.folder
    if probability.ndim != 2 or probability.size == 0:
        raise DataError(f"{case}: probabilities have shape {probability.shape}, expected one map (H, W).")
    for role, array in (("image", image), ("truth", truth)):
        if array is not None and array.shape[:2] != probability.shape:
            raise DataError(
                f"{case}: the {role} has shape {array.shape}, the probabilities {probability.shape}; "
                "a mask is exported at the original size of its image."
            )
    mask = binarize(probability, threshold, case=case)
    mask_file = _MASK.format(stem)
    write_mask(folder / mask_file, mask)
    probability_file = "" if probabilities == "none" else (_PROBABILITY + probabilities).format(stem)
    if probabilities != "none":
        write_probability(folder / probability_file, probability, kind=probabilities)
    overlay_file = "" if image is None else _OVERLAY.format(stem)
    if image is not None:
        write_image(folder / overlay_file, draw_overlay(image, mask, truth))
    area = int(np.count_nonzero(mask))
    return {
        "id": case,
        "image": source,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "threshold": float(threshold),
        "area_px": area,
        "area_fraction": area / mask.size,
        "components": count_components(mask),
        "confidence": confidence(probability, mask),
        "mask_file": mask_file,
        "probability_file": probability_file,
        "overlay_file": overlay_file,
        "outside": "",
    }


def image_exports(
    out: Path,
    names: Iterable[str] = (),
    *,
    threshold: float,
    probabilities: Probabilities = "none",
    overlays: bool = True,
    run: str = "",
    resume: bool = False,
) -> ExportTable:
    """A table of exported images, whose `add` takes an image (None for no overlay) and its probabilities.

    Args:
        out: The output folder.
        names: The ids of all cases that will be given.
        threshold: See `export_case`.
        probabilities: See `export_case`.
        overlays: Whether images will be given, so that a case without an overlay is exported again on resuming.
        run: See `ExportTable`.
        resume: See `ExportTable`.
    """
    files = {
        "mask_file": _MASK,
        "probability_file": "" if probabilities == "none" else _PROBABILITY + probabilities,
        "overlay_file": _OVERLAY if overlays else "",
    }
    to = Exports(out, file_stems(names))
    export = partial(export_case, to, threshold=threshold, probabilities=probabilities)
    settings = {"threshold": repr(float(threshold))}
    return ExportTable(to, TABLE, COLUMNS, export, files=files, settings=settings, run=run, resume=resume)


def count_components(mask: NDArray[np.bool_]) -> int:
    """Count the 8-connected regions of a mask (H, W)."""
    return int(ndimage.label(mask, structure=_EIGHT_NEIGHBORS)[1])


def confidence(probability: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Mean probability inside the mask; 1 minus the highest probability when the mask is empty.

    It ranks cases for review. It is no probability that the mask is right: networks are seldom calibrated.
    """
    if mask.any():
        return float(probability[mask].mean(dtype=np.float64))
    return 1.0 - float(probability.max())
