"""Exporting segmented volumes: verified label maps, overlays, DICOM segmentations, and a table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medformer.data.manifest import Case
from medformer.errors import ConfigError
from medformer.imaging.dicom_seg import write_dicom_seg
from medformer.imaging.images import write_image
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.planes import draw_planes
from medformer.imaging.volumes import read_volume
from medformer.inference.export_table import ExportTable, check_name
from medformer.inference.volumes.label_map import LabelMap

TABLE = "volumes.csv"

_FILES = ("mask", "overlay", "dicom_seg")


def columns(labels: Iterable[str]) -> tuple[str, ...]:
    """The columns of a table of exported volumes with these label names."""
    names = tuple(labels)
    measured = (f"{what}:{name}" for what in ("pred_ml", "confidence") for name in names)
    return ("id", "image", "shape", "spacing_mm", *measured, *_FILES)


def export_volume(
    out: Path,
    case: str,
    result: LabelMap,
    like: Path | Case | Sequence[Path],
    *,
    source: str = "",
    truth: NDArray[Any] | None = None,
    overlay: bool = True,
    dicom_seg: bool = False,
) -> dict[str, Any]:
    """Write one case below `out`: `masks/ID.nii.gz`, and where asked for `overlays/ID.png` and `dicom_seg/ID.dcm`.

    The label map has the image's exact affine, sform, qform and their codes, in the smallest sufficient integer type;
    it and the DICOM segmentation are read back and compared before they are kept.

    Args:
        out: The output folder.
        case: The id; names the files. A `/` in it makes a subfolder.
        result: Of the segmenter.
        like: What was segmented; its first channel places the result and is drawn.
        source: Where the image came from, for the table.
        truth: True label values (X, Y, Z), drawn as a tint.
        overlay: Draw three planes.
        dicom_seg: Write a DICOM segmentation too; the image must be a DICOM series.

    Returns:
        A value for each of `columns`: milliliters of each label (`pred_ml:NAME`), the mean probability of its voxels
        (`confidence:NAME`, empty where there are none), and files relative to `out`, empty where none was asked for.

    Raises:
        ConfigError: A DICOM segmentation was asked for and the image is no DICOM series, or `dicom` is not installed.
        DataError: The arrays do not fit each other, the image cannot be read, or the id cannot name a file.
        ResourceError: A file could not be written, or did not read back as it was written.
    """
    check_name(case)
    path = like if isinstance(like, Path) else like.required_image() if isinstance(like, Case) else like[0]
    if dicom_seg and not path.is_dir():
        raise ConfigError(
            f"{case}: a DICOM segmentation refers to the slices of a DICOM series, and {path} is none. "
            "Give a folder with a series, or write NIfTI alone."
        )
    files = {
        "mask": f"masks/{case}.nii.gz",
        "overlay": f"overlays/{case}.png" if overlay else "",
        "dicom_seg": f"dicom_seg/{case}.dcm" if dicom_seg else "",
    }
    write_labels(out / files["mask"], result.array, path)
    if dicom_seg:
        write_dicom_seg(out / files["dicom_seg"], result.array, result.labels, path)
    if overlay:
        image = read_volume(path).array
        drawn = draw_planes(image, result.array, result.geometry, result.labels, truth=truth)
        write_image(out / files["overlay"], drawn)
    volumes = result.volumes_ml
    return {
        "id": case,
        "image": source,
        "shape": "x".join(map(str, result.geometry.shape)),
        "spacing_mm": "x".join(f"{size:g}" for size in result.geometry.spacing),
        **{f"pred_ml:{name}": volumes[value] for value, name in result.labels.items()},
        **{f"confidence:{name}": result.confidence.get(value, "") for value, name in result.labels.items()},
        **files,
    }


def volume_exports(
    out: Path,
    labels: Iterable[str],
    *,
    overlays: bool = True,
    dicom_seg: bool = False,
    resume: bool = False,
) -> ExportTable:
    """A table of exported volumes, whose `add` takes the result of a segmenter and what was segmented.

    Args:
        out: The output folder.
        labels: Names of the labels.
        overlays: See `export_volume`.
        dicom_seg: See `export_volume`.
        resume: See `ExportTable`.
    """
    files = {"mask": ".nii.gz", "overlay": ".png" if overlays else "", "dicom_seg": ".dcm" if dicom_seg else ""}
    export = partial(export_volume, out, overlay=overlays, dicom_seg=dicom_seg)
    return ExportTable(out, TABLE, columns(labels), export, files=files, resume=resume)
