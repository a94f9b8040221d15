"""What the known folder layouts of volumes look like: one function for each.

* `msd`, the Medical Segmentation Decathlon: `dataset.json`, `imagesTr/<case>.nii.gz`, `labelsTr/<case>.nii.gz`;
  several channels are in one file (X, Y, Z, channel).
* `nnunet`, nnU-Net's raw data: `dataset.json`, `imagesTr/<case>_0000.nii.gz` (a file for each channel),
  `labelsTr/<case>.nii.gz`.
* `folders`: `images/` and `labels/` (or `masks/`) with equal names, also in equal folders below both; or a folder of
  images alone. A `dataset.json` may name the labels.
* `cases`: a folder for each case, whose files begin with its name, as in BraTS (see `case_folders`).
* `dicom`: folders that each hold one series, at any depth; where there are labels, `labels/<series folder>.nii.gz`,
  `labels/<series folder>.dcm`, or a segmentation alone in the folder `labels/<series folder>`.

In the first two, `imagesTs` with `labelsTs` becomes the split `test`. Where `dataset.json` lists cases, these are the
cases; files that it does not list are left out, and said. In `images/`, too, `<case>_0000` is a channel of a case whose
label map is called `<case>`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medformer.data.cases import Case
from medformer.data.folders import files_by_name, first_folder, natural_order
from medformer.data.problems import Problem, first_ten
from medformer.data.volumes.read.case_folders import find_cases, has_case_folders
from medformer.data.volumes.read.channels import CHANNEL, ENDINGS, by_channel, has_channel_numbers
from medformer.data.volumes.read.dataset_file import DatasetInfo, Patients, info_from_json, info_path
from medformer.data.volumes.read.dataset_list import cases_of_list, listed_cases, stated_count, unlisted
from medformer.errors import ConfigError, DataError, counted
from medformer.files import digest, read_json, walk
from medformer.imaging.dicom_files import NO_IMAGES, Series, find_series

_IMAGES = ("images", "image")
_LABELS = ("labels", "label", "masks", "mask", "segmentations")
SEGMENTATION = ".dcm"
"""Ending of a label map that is a DICOM segmentation."""

LABEL_FOLDERS = {*_LABELS, "labelsTr", "labelsTs"}
"""Names of folders that hold label maps."""


@dataclass(frozen=True)
class VolumeScan:
    """What a folder holds.

    Attributes:
        cases: In the order of their names, without hashes (see `layouts.with_hashes`).
        problems: Everything that does not fit.
        info: What the folder declares; None where it has to be read from the files (see `layouts.info_from_records`).
        channels: Names of the channels where they are known without `info`.
        patients: Where the groups come from.
        layout: How the folder is laid out.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]
    info: DatasetInfo | None = None
    channels: tuple[str, ...] = ()
    patients: Patients = "known"
    layout: str = ""


def recognize(folder: Path) -> str:
    """The layout of a folder.

    Raises:
        DataError: It has none of them.
    """
    manifest = folder / "manifest.csv"
    if info_path(manifest).is_file() and manifest.is_file():
        raise DataError(f"{folder} holds the manifest of its volumes. Give {manifest} itself.")
    if (folder / "imagesTr").is_dir():
        return "nnunet" if _is_nnunet(folder) else "msd"
    images = first_folder(folder, _IMAGES) or folder
    if files_by_name(images, ENDINGS, []):
        return "folders"
    if has_case_folders(folder):
        return "cases"
    if any(path.suffix.lower() == ".dcm" for _, files in walk(images) for path in files) or find_series(images):
        return "dicom"
    if images != folder and files_by_name(images, ENDINGS, [], nested=True):
        return "folders"
    entries = sorted(folder.iterdir())
    inside = ", ".join(entry.name for entry in entries[:10]) or "nothing"
    nested = next((f" {entry} has one: give that folder." for entry in entries if _has_parts(entry)), "")
    _refuse_structures(folder, entries)
    raise DataError(
        f"{folder} has no known layout; found {inside}; expected dataset.json with imagesTr/ and labelsTr/, images/ "
        f"and labels/, files that end in {', '.join(ENDINGS)}, folders CASE with the files CASE_CHANNEL and "
        "CASE_seg, or folders that each hold a DICOM series. Rename the folders or write a CSV manifest by hand, with "
        "the columns id, image, mask and for more channels "
        f"image_1, image_2, ....{nested}"
    )


def _refuse_structures(folder: Path, entries: Sequence[Path]) -> None:
    """Refuse TotalSegmentator's tree, which has a map of its own for each structure of a case."""
    for entry in entries:
        if (entry / "segmentations").is_dir() and len(files_by_name(entry / "segmentations", ENDINGS, [])) > 1:
            raise DataError(
                f"{folder} has a label map for each structure of a case, as in {entry / 'segmentations'}; expected one "
                "map for each case, with a value for each structure. Join the maps of each case into one, and lay the "
                f"data out as images/{entry.name}.nii.gz and labels/{entry.name}.nii.gz."
            )


def _has_parts(folder: Path) -> bool:
    return (folder / "imagesTr").is_dir() or (
        (folder / "images").is_dir() and first_folder(folder, _LABELS) is not None
    )


def read_msd(folder: Path) -> VolumeScan:
    """The Decathlon's layout.

    Raises:
        DataError: It is not complete.
    """
    info = info_from_json(folder / "dataset.json")
    if len(info.channels) > 1:
        _require_numbers(folder)
    problems: list[Problem] = []
    found = _both_parts(folder, problems, lambda images: {stem: (path,) for stem, path in images.items()})
    return VolumeScan(tuple(found), tuple(problems), info)


def read_nnunet(folder: Path) -> VolumeScan:
    """NnU-Net's raw layout, of either version.

    Raises:
        DataError: It is not complete.
        ConfigError: Its files are of a kind that is not read, or its labels are regions.
    """
    description = folder / "dataset.json"
    info = info_from_json(description)
    ending = str(read_json(description).get("file_ending", ENDINGS[0]))
    if ending not in ENDINGS:
        raise ConfigError(
            f"{description} says that the files end in '{ending}'; expected {', '.join(ENDINGS)}. "
            "Convert them to NIfTI."
        )
    problems: list[Problem] = []

    found = _both_parts(folder, problems, partial(by_channel, expected=info.channels, problems=problems))
    return VolumeScan(tuple(found), tuple(problems), info)


def read_folders(folder: Path) -> VolumeScan:
    """Images, and label maps of the same names; where `images/` holds folders alone, at the same places below.

    Raises:
        DataError: `dataset.json` is not valid.
    """
    problems: list[Problem] = []
    images, labels = first_folder(folder, _IMAGES) or folder, first_folder(folder, _LABELS)
    nested = images != folder and not files_by_name(images, ENDINGS, [])
    files = files_by_name(images, ENDINGS, problems, nested=nested)
    masks = {} if labels is None else files_by_name(labels, (*ENDINGS, SEGMENTATION), problems, nested=nested)
    info = _described(folder)
    if has_channel_numbers(files, masks):
        volumes = by_channel(files, () if info is None else info.channels, problems)
    else:
        volumes = {stem: (path,) for stem, path in files.items()}
    return VolumeScan(tuple(_pair(volumes, masks, "", problems, labels)), tuple(problems), info)


def read_cases(folder: Path) -> VolumeScan:
    """A folder for each case, as in BraTS.

    Raises:
        DataError: `dataset.json` is not valid.
    """
    problems: list[Problem] = []
    cases, channels = find_cases(folder, problems)
    return VolumeScan(tuple(cases), tuple(problems), _described(folder), channels)


def read_dicom(folder: Path) -> VolumeScan:
    """Folders of one series each, and label maps named after them.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: A folder cannot be listed, or `dataset.json` is not valid.
    """
    problems: list[Problem] = []
    labels = first_folder(folder, _LABELS)
    top = first_folder(folder, _IMAGES) or folder
    by_folder: dict[Path, list[Series]] = {}
    for series in find_series(top):
        if labels is None or not series.folder.is_relative_to(labels):
            by_folder.setdefault(series.folder, []).append(series)
    images: dict[str, Series] = {}
    for place, several in by_folder.items():
        name = top.name if place == top else unicodedata.normalize("NFC", place.relative_to(top).as_posix())
        if len(several) > 1:
            first = ", ".join(str(series.files[0].name) for series in several[:4])
            detail = f"it holds {len(several)} series (of {first}); expected one. Put each into its own folder"
            problems.append(Problem(name, str(place), "several-series", detail))
        elif several[0].fault:
            problems.append(Problem(name, str(place), "corrupt", several[0].fault))
        elif several[0].modality in NO_IMAGES:
            problems.append(Problem(name, str(place), "not-an-image", f"its modality is {several[0].modality}"))
        else:
            images[name] = several[0]
    masks = {} if labels is None else files_by_name(labels, (*ENDINGS, SEGMENTATION), problems, nested=True)
    for name, inside in _alone_in_folders(masks).items():
        if name in images and name not in masks:
            masks[name] = masks.pop(inside)
    found = [
        replace(case, group=_pseudonym(images[case.id].patient))
        for case in _pair({name: (series.folder,) for name, series in images.items()}, masks, "", problems, labels)
    ]
    modalities = {series.modality for series in images.values()}
    return VolumeScan(
        tuple(found),
        tuple(problems),
        _described(folder),
        (modalities.pop(),) if len(modalities) == 1 and "" not in modalities else (),
    )


def _alone_in_folders(masks: Mapping[str, Path]) -> dict[str, str]:
    """Names of DICOM segmentations that have a folder of their own, as archives give each object one, by the folder."""
    inside: dict[str, list[str]] = {}
    for name in masks:
        inside.setdefault(name.rpartition("/")[0], []).append(name)
    return {
        folder: names[0]
        for folder, names in inside.items()
        if folder and len(names) == 1 and masks[names[0]].suffix.lower() == SEGMENTATION
    }


READERS = {
    "msd": read_msd,
    "nnunet": read_nnunet,
    "folders": read_folders,
    "cases": read_cases,
    "dicom": read_dicom,
}
"""What reads each layout."""


def _pseudonym(patient: str) -> str:
    """A manifest may be published without the images, so it must not contain a patient's id."""
    return f"patient-{digest(patient.strip())[:12]}" if patient.strip() else ""


def _described(folder: Path) -> DatasetInfo | None:
    description = folder / "dataset.json"
    return info_from_json(description) if description.is_file() else None


def _both_parts(
    folder: Path, problems: list[Problem], channels: Callable[[dict[str, Path]], Mapping[str, tuple[Path, ...]]]
) -> list[Case]:
    """Training cases, and test cases where they have labels; `channels` groups the files of each case.

    Raises:
        DataError: There are no training images, or one id is that of two cases.
    """
    listed = listed_cases(folder / "dataset.json")
    found: list[Case] = []
    for part, ending in (("train", "Tr"), ("test", "Ts")):
        images, labels = folder / f"images{ending}", folder / f"labels{ending}"
        entries = [entry for entry in listed if (entry.part == "test") == (part == "test")]
        if part == "train" and not images.is_dir() and not entries:
            raise DataError(f"{images} is not a folder; expected the images of {folder}. Complete the data set.")
        scanned = channels(files_by_name(images, ENDINGS, problems)) if images.is_dir() else {}
        masks = files_by_name(labels, ENDINGS, problems) if labels.is_dir() else {}
        if part == "test":
            # Nothing is done with test images that have no labels, so it does not matter that they are not there.
            absent = [entry for entry in entries if not entry.label and not entry.images[0].exists()]
            if absent and not masks:
                entries = [entry for entry in entries if entry not in absent]
                detail = f"{counted(len(absent), 'listed case')} without labels, whose images are not there"
                problems.append(Problem(images.name, str(images), "without-labels", detail))
        if entries:
            cases = sorted(cases_of_list(entries, scanned, masks, problems), key=lambda case: natural_order(case.id))
            problems.extend(unlisted(images, scanned, cases))
        else:
            there = labels if labels.is_dir() or part == "train" else None
            cases = _pair(scanned, masks, part, problems, there)
        if part == "test":
            some = [case for case in cases if case.mask is None]
            cases = [case for case in cases if case.mask is not None]
            if some and not cases:
                detail = f"{counted(len(some), 'case')} without labels; predict takes them"
                problems.append(Problem("imagesTs", str(images), "without-labels", detail))
            files = {case.image for case in some}
            _require_one_each([*some, *(case for case in found if case.image in files)])
        found += cases
    _require_one_each(found)
    problems.extend(_other_parts(folder, found))
    trained = sum(entry.part == "train" for entry in listed) or sum(case.split == "train" for case in found)
    if (stated := stated_count(folder / "dataset.json")) not in (None, trained):
        detail = f"numTraining is {stated}; {'listed' if listed else 'found'}: {counted(trained, 'training case')}"
        problems.append(Problem("dataset.json", str(folder / "dataset.json"), "count-differs", detail))
    # Without a part of its own for tests, the data set has no split.
    return found if {case.split for case in found} - {"train"} else [replace(case, split="") for case in found]


def _other_parts(folder: Path, cases: Sequence[Case]) -> Iterator[Problem]:
    """Folders such as imagesVa, which no layout knows and no case comes from."""
    used = {image.parent for case in cases for image in case.images}
    for place in sorted(folder.glob("images*")):
        if place.name in ("imagesTr", "imagesTs") or not place.is_dir() or place.resolve() in used or place in used:
            continue
        if files := files_by_name(place, ENDINGS, []):
            detail = f"it holds {counted(len(files), 'file')}; of this layout, only imagesTr and imagesTs are read"
            yield Problem(place.name, str(place), "not-read", detail)


def _require_one_each(cases: Sequence[Case]) -> None:
    first: dict[str, Case] = {}
    twice = [(first[case.id], case) for case in cases if first.setdefault(case.id, case) is not case]
    if twice:
        listed = first_ten([f"{one.id}: {one.image} and {other.image}" for one, other in twice])
        if all(one.image == other.image for one, other in twice):
            advice = "dataset.json lists them twice: remove one entry of each."
        else:
            advice = "Rename the files of one of the two, such as those in imagesTs/ and labelsTs/."
        raise DataError(
            f"{counted(len(twice), 'id is that of two cases', 'ids are those of two cases each')}; expected every id "
            f"once:{listed}\n{advice}"
        )


def _pair(
    images: Mapping[str, tuple[Path, ...]],
    masks: Mapping[str, Path],
    split: str,
    problems: list[Problem],
    labels: Path | None,
) -> list[Case]:
    """Pair images and label maps by name; one without a partner becomes a problem."""
    if images and masks and not images.keys() & masks.keys():
        image, mask_ = (sorted(names, key=natural_order)[0] for names in (images, masks))
        raise DataError(
            f"No image has the name of a label map: the first image is {image} ({images[image][0]}), the first label "
            f"map {mask_} ({masks[mask_]}); expected equal names. Rename the files, or write a CSV manifest with the "
            "columns id, image, mask."
        )
    found = []
    for name in sorted(images, key=natural_order):
        mask = masks.get(name)
        if mask is None and labels is not None:
            problems.append(Problem(name, str(images[name][0]), "missing-mask", f"no {name}.* in {labels}"))
        found.append(Case(name, images[name][0], mask, split=split, further=images[name][1:]))
    for name in sorted(masks.keys() - images.keys(), key=natural_order):
        problems.append(Problem(name, str(masks[name]), "missing-image", "no complete image has this name"))
    return found


def _require_numbers(folder: Path) -> None:
    """Refuse files of one channel each whose names do not say so as nnU-Net's do, such as `case_t1` or `case_001`."""
    images, labels = (files_by_name(folder / name, ENDINGS, []) for name in ("imagesTr", "labelsTr"))
    case, image = next(
        ((case, image) for image in images for case in labels if image != case and image.startswith(case)), ("", "")
    )
    if case and not images.keys() & labels.keys():
        raise DataError(
            f"{folder} has the image {images[image].name} for the label map {labels[case].name}; expected names that "
            f"end in the four digits of a channel, such as {case}_0000. Rename the images."
        )


def _is_nnunet(folder: Path) -> bool:
    """Whether a folder with imagesTr is in nnU-Net's layout and not in the Decathlon's."""
    images = files_by_name(folder / "imagesTr", ENDINGS, [])
    labels = files_by_name(folder / "labelsTr", ENDINGS, []) if (folder / "labelsTr").is_dir() else {}
    if labels:
        return has_channel_numbers(images, labels)
    return bool(images) and all(map(CHANNEL.fullmatch, images)) and any(stem.endswith("_0000") for stem in images)
