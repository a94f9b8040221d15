"""Scoring a folder of label maps, of any origin, against a folder of references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.data.volumes.read.layouts import declared_info
from medformer.errors import DataError
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.summary import summarize
from medformer.imaging.geometry import GRID_TOLERANCE, Geometry, Volume, label_counts, same_grid, seems_an_image
from medformer.imaging.seg_frames import enclosing, open_seg, segment_conflicts
from medformer.imaging.volumes import read_geometry, read_labels
from medformer.inference.scored_cases import CaseSource
from medformer.inference.scoring import Unpaired, one_folder_note, pair_folders
from medformer.progress import Reporter, SilentReporter

SEG = ".dcm"
NIFTI = (".nii.gz", ".nii", ".hdr")


def score_label_maps(
    predictions: Path,
    masks: Path,
    *,
    images: Path | None = None,
    labels: DatasetInfo | None = None,
    tolerance: float = 2.0,
    cases: CaseSource | None = None,
    unpaired: Unpaired | None = None,
    reporter: Reporter | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score every label map against the reference of the same name.

    Files are matched by their path below the two folders without the ending. A prediction is turned onto the axes of
    its reference. DICOM segmentations, which leave planes without a label out, are placed on the grid of the image;
    where no images are given, on that of the other label map, and two of them on the smallest box that holds both.

    Args:
        predictions: Folder of NIfTI label maps or DICOM segmentations.
        masks: Folder of the references, on the same grids.
        images: Folder of what was labeled, named like the masks: NIfTI files, or folders of a DICOM series.
        labels: The labels, and the regions that are scored in their place where there are any; without it, those that
            the data set of the manifest declares, else every value above 0 that a map holds, named after its value.
        tolerance: Of the normalized surface Dice, mm.
        cases: Where patients, sites and labels are told; unless given, no patient is known.
        unpaired: Receives the names that only one folder has; without it, they are refused.
        reporter: Receives one step per case.

    Returns:
        One row per case (`volume_row`), and their summary (`summarize`).

    Raises:
        DataError: A folder is missing or holds no label maps, the two do not pair up, a file cannot be read, grids
            differ, no label is known, or a map holds a value below 0 or one that is not among the labels.
    """
    reporter = reporter or SilentReporter()
    source = cases or CaseSource()
    pairs = pair_folders(predictions, masks, (*NIFTI, SEG), unpaired=unpaired)
    known = source.of(pairs)
    declared = labels or (None if source.table is None else declared_info(source.table))
    named = dict(declared.labels) if declared else {}
    names = named or _found_labels([path for _, *both in pairs for path in both])
    regions = declared.members if declared else {}
    rows: list[dict[str, Any]] = []
    for case, prediction_file, mask_file in reporter.track(pairs, "scoring"):
        image = None if images is None else _image_of(case, images)
        found, truth = _on_one_grid(prediction_file, mask_file, image)
        _require_same_numbers(found, truth)
        for volume in (found, truth):
            _require_declared(volume, names)
        rows.append(
            known.add_to(
                volume_row(
                    case,
                    found.array,
                    truth.array,
                    labels=names,
                    spacing=truth.geometry.steps,
                    tolerance=tolerance,
                    regions=regions,
                )
            )
        )
    for note in (*one_folder_note(predictions, masks), *_one_sided(rows, list(regions or names.values()))):
        reporter.line(note)
    return rows, summarize(rows, strangers=False)


def _found_labels(files: list[Path]) -> dict[int, str]:
    """Every value above 0, so that what is predicted and in no reference counts as false."""
    found: set[int] = set()
    for path in files:
        labels = read_labels(path).array
        counts = label_counts(labels)
        if detail := seems_an_image(labels, len(counts)):
            raise DataError(f"{path} is no label map: {detail}")
        found.update(value for value in counts if value > 0)
    values = sorted(found)
    if not values:
        raise DataError(
            f"All {len(files)} label maps are empty (the first is {files[0]}), so it is not known which labels there "
            "are. Name them, for example --labels 1,2."
        )
    return {value: f"label {value}" for value in values}


def _one_sided(rows: list[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Say what only one side has: its Dice is 0, which may mean that the two sides number labels differently."""
    sides = [[name for name in names if any(row[f"{side}_ml:{name}"] for row in rows)] for side in ("pred", "truth")]
    notes = []
    for there, here, one, other in (
        (sides[0], sides[1], "predictions", "mask"),
        (sides[1], sides[0], "masks", "prediction"),
    ):
        if alone := [name for name in there if name not in here]:
            notes.append(
                f"Note: {', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}: in {one} and in no {other}. Do both "
                "sides number labels in the same way?"
            )
    return notes


def _require_same_numbers(found: Volume, truth: Volume) -> None:
    """Refuse two segmentations that give one name two numbers."""
    for name, usual in segment_conflicts([truth.names, found.names]).items():
        other = next(value for value, own in found.names.items() if own.casefold() == name)
        raise DataError(
            f"'{name}' is segment {other} of {found.path} and segment {usual} of {truth.path}; expected one number for "
            "one name. Renumber the segments of one of them."
        )


def _require_declared(volume: Volume, names: Mapping[int, str]) -> None:
    counts = label_counts(volume.array)
    wrong = [value for value in counts if value < 0] or [value for value in counts if value and value not in names]
    if not wrong:
        return
    known = ", ".join(f"{value} {name}" for value, name in sorted(names.items()))
    what = f"{volume.path} holds the value {wrong[0]} in {counts[wrong[0]]:,} voxels; expected 0 for the background"
    if wrong[0] < 0:
        raise DataError(
            f"{what} and whole numbers above it for labels. If it marks voxels that nobody labeled, they cannot be "
            "scored: give them a label or 0 in both maps, or leave the case out."
        )
    raise DataError(f"{what} and the labels {known}. Add it to --labels, or correct the label map.")


def _on_one_grid(prediction: Path, mask: Path, image: Path | None) -> tuple[Volume, Volume]:
    """Read a prediction and its reference."""
    grid = _shared_grid(prediction, mask) if image is None else read_geometry(image)
    found, truth = read_labels(prediction, grid), read_labels(mask, grid)
    for volume in (found, truth):
        reason = same_grid(grid, volume.geometry, tolerance_mm=GRID_TOLERANCE * min(grid.spacing))
        if reason:
            raise DataError(
                f"{volume.path} does not lie on the grid of {image or mask}: {reason}. "
                "Resample it onto that grid, labels with nearest neighbor."
            )
    return found, truth


def _shared_grid(prediction: Path, mask: Path) -> Geometry:
    whole = next((path for path in (mask, prediction) if path.suffix.lower() != SEG), None)
    if whole is not None:
        return read_geometry(whole)
    return enclosing(open_seg(mask).grid(), open_seg(prediction).grid())


def _image_of(case: str, images: Path) -> Path:
    names = [case + end for end in ("", *NIFTI, *(f"_0000{end}" for end in NIFTI))]
    for path in (images / name for name in names):
        if path.is_file() or (path.is_dir() and path.name == Path(case).name):
            return path
    raise DataError(
        f"{images} holds no image for '{case}'; expected {case}.nii.gz or a folder {case} with a DICOM series."
    )
