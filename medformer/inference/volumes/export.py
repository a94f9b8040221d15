"""Exporting segmented volumes: verified label maps, overlays, DICOM segmentations, and a table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.errors import ConfigError
from medformer.imaging.dicom_seg import write_dicom_seg
from medformer.imaging.images import write_image
from medformer.imaging.nifti_labels import write_labels
from medformer.imaging.planes import draw_planes
from medformer.imaging.volumes import read_volume
from medformer.inference.export_table import Exports, ExportTable
from medformer.inference.volumes.label_map import LabelMap
from medformer.inference.volumes.probabilities import ENDINGS, Probabilities, write_probabilities
from medformer.names import file_stems

TABLE = "volumes.csv"

_FILES = {
    "mask": "masks/{}.nii.gz",
    "overlay": "overlays/{}.png",
    "dicom_seg": "dicom_seg/{}.dcm",
    "probabilities": "probabilities/{}",
}
"""Where each file of a case is, by column."""


def columns(labels: Iterable[str]) -> tuple[str, ...]:
    """The columns of a table of exported volumes with these label names."""
    names = tuple(labels)
    measured = (f"{what}:{name}" for what in ("pred_ml", "confidence") for name in names)
    return ("id", "image", "shape", "spacing_mm", *measured, *_FILES, "outside", "image_sha256", "run_sha256")


def export_volume(
    out: Exports,
    case: str,
    result: LabelMap,
    like: Path | Case | Sequence[Path],
    *,
    source: str = "",
    truth: NDArray[Any] | None = None,
    overlay: bool = True,
    dicom_seg: bool = False,
    probabilities: Probabilities = "none",
) -> dict[str, Any]:
    """Write one case: `masks/ID.nii.gz`, and where asked for overlay, DICOM segmentation and probability maps.

    The label map has the image's exact affine, sform, qform and their codes, in the smallest sufficient integer type;
    it and the DICOM segmentation are read back and compared before they are kept.

    Args:
        out: Where the files go.
        case: The id.
        result: Of the segmenter.
        like: What was segmented; its first channel places the result and is drawn.
        source: Where the image came from, for the table.
        truth: True label values (X, Y, Z), drawn as a tint.
        overlay: Draw three planes, or slices (`draw_planes`).
        dicom_seg: Write a DICOM segmentation too; the image must be a DICOM series.
        probabilities: The form of the maps, which the result must hold.

    Returns:
        A value for each of `columns` but the hashes, `outside` empty: milliliters of each label (`pred_ml:NAME`), the
        mean probability of its voxels (`confidence:NAME`, empty where there are none), and files relative to the
        folder, empty where none was asked for.

    Raises:
        ConfigError: A DICOM segmentation was asked for and the image is no DICOM series, or `dicom` is not installed.
        DataError: The arrays do not fit each other, the image cannot be read, or the id cannot be one.
        ResourceError: A file could not be written, or did not read back as it was written.
    """
    stem, folder = out.stem(case), out.folder
    path = like if isinstance(like, Path) else like.required_image() if isinstance(like, Case) else like[0]
    if dicom_seg and not path.is_dir():
        raise ConfigError(
            f"{case}: a DICOM segmentation refers to the slices of a DICOM series, and {path} is none. "
            "Give a folder with a series, or write NIfTI alone."
        )
    files = {name: where.format(stem) for name, where in _wanted(overlay, dicom_seg, probabilities).items()}
    write_labels(folder / files["mask"], result.array, path)
    if dicom_seg:
        write_dicom_seg(folder / files["dicom_seg"], result.array, result.labels, path)
    if probabilities != "none" and result.probabilities is not None:
        to = folder / files["probabilities"]
        write_probabilities(to, result.probabilities, result.labels, path, result.geometry)
    if overlay:
        image = read_volume(path).array
        drawn = draw_planes(image, result.array, result.geometry, result.labels, truth=truth)
        write_image(folder / files["overlay"], drawn)
    volumes = result.volumes_ml
    return {
        "id": case,
        "image": source,
        "shape": "x".join(map(str, result.geometry.shape)),
        "spacing_mm": "x".join(f"{size:g}" for size in result.geometry.spacing),
        **{f"pred_ml:{name}": volumes[value] for value, name in result.labels.items()},
        **{f"confidence:{name}": result.confidence.get(value, "") for value, name in result.labels.items()},
        **files,
        "outside": "",
    }


def volume_exports(
    out: Path,
    labels: Iterable[str],
    names: Iterable[str] = (),
    *,
    overlays: bool = True,
    dicom_seg: bool = False,
    probabilities: Probabilities = "none",
    run: str = "",
    resume: bool = False,
) -> ExportTable:
    """A table of exported volumes, whose `add` takes the result of a segmenter and what was segmented.

    Args:
        out: The output folder.
        labels: Names of the labels.
        names: The ids of all cases that will be given.
        overlays: See `export_volume`.
        dicom_seg: See `export_volume`.
        probabilities: See `export_volume`.
        run: See `ExportTable`.
        resume: See `ExportTable`.
    """
    files, to = _wanted(overlays, dicom_seg, probabilities), Exports(out, file_stems(names))
    export = partial(export_volume, to, overlay=overlays, dicom_seg=dicom_seg, probabilities=probabilities)
    return ExportTable(to, TABLE, columns(labels), export, files=files, run=run, resume=resume)


def _wanted(overlay: bool, dicom_seg: bool, probabilities: Probabilities) -> dict[str, str]:
    """Where a case's files are, empty where none is asked for."""
    maps = ENDINGS.get(probabilities, "")
    asked = {"mask": True, "overlay": overlay, "dicom_seg": dicom_seg, "probabilities": bool(maps)}
    ends = {"probabilities": maps}
    return {name: where + ends.get(name, "") if asked[name] else "" for name, where in _FILES.items()}
