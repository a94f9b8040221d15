"""Exporting segmented images: verified masks, optional probability maps and overlays, and a table of them."""

from __future__ import annotations

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
from medformer.inference.export_table import ExportTable, check_name

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
)

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=int)


def export_case(
    out: Path,
    case: str,
    image: NDArray[np.uint8] | None,
    probability: NDArray[np.float32],
    threshold: float,
    *,
    source: str = "",
    probabilities: Probabilities = "none",
    truth: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Write the files of one case below `out`: `masks/`, and where asked `probabilities/` and `overlays/`.

    Args:
        out: The output folder.
        case: The id; names the files. A `/` in it makes a subfolder.
        image: RGB uint8 (H, W, 3) to draw the overlay on; None writes no overlay.
        probability: float (H, W) in [0, 1] at the original size.
        threshold: A pixel is foreground where its probability is at least this.
        source: Where the image came from, for the table.
        probabilities: Whether and how to write the map: 8-bit PNG (rounded) or float32 NPZ (exact).
        truth: Boolean mask (H, W); its contour is drawn too.

    Returns:
        A value for each of `COLUMNS`. Files are relative to `out`, empty where none was asked for. `components`
        counts 8-connected regions. `confidence` is the mean probability inside the mask, or 1 minus the highest
        probability when the mask is empty.

    Raises:
        DataError: The arrays do not fit each other, or the id cannot name a file.
        ResourceError: A file could not be written, or did not read back as it was written.
    """
    check_name(case)
    if probability.ndim != 2 or probability.size == 0:
        raise DataError(f"{case}: probabilities have shape {probability.shape}, expected one map (H, W).")
    for role, array in (("image", image), ("truth", truth)):
        if array is not None and array.shape[:2] != probability.shape:
            raise DataError(
                f"{case}: the {role} has shape {array.shape}, the probabilities {probability.shape}; "
                "a mask is exported at the original size of its image."
            )
    mask = binarize(probability, threshold, case=case)
    mask_file = f"masks/{case}.png"
    write_mask(out / mask_file, mask)
    probability_file = "" if probabilities == "none" else f"probabilities/{case}.{probabilities}"
    if probabilities != "none":
        write_probability(out / probability_file, probability, kind=probabilities)
    overlay_file = "" if image is None else f"overlays/{case}.png"
    if image is not None:
        write_image(out / overlay_file, draw_overlay(image, mask, truth))
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
    }


def image_exports(
    out: Path,
    *,
    threshold: float,
    probabilities: Probabilities = "none",
    overlays: bool = True,
    resume: bool = False,
) -> ExportTable:
    """A table of exported images, whose `add` takes an image (None for no overlay) and its probabilities.

    Args:
        out: The output folder.
        threshold: See `export_case`.
        probabilities: See `export_case`.
        overlays: Whether images will be given, so that a case without an overlay is exported again on resuming.
        resume: See `ExportTable`.
    """
    files = {
        "mask_file": ".png",
        "probability_file": "" if probabilities == "none" else f".{probabilities}",
        "overlay_file": ".png" if overlays else "",
    }
    export = partial(export_case, out, threshold=threshold, probabilities=probabilities)
    settings = {"threshold": repr(float(threshold))}
    return ExportTable(out, TABLE, COLUMNS, export, files=files, settings=settings, resume=resume)


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
