"""Which cases a `dataset.json` lists: `training`, `validation` and `test` of the Decathlon, `dataset` of nnU-Net."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medformer.data.cases import Case
from medformer.data.folders import split_ending
from medformer.data.problems import Problem
from medformer.data.volumes.read.channels import CHANNEL, ENDINGS
from medformer.errors import DataError, counted
from medformer.files import read_json

_PARTS = {"training": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Listed:
    """One entry of the list.

    Attributes:
        id: Case, where the list names it; empty where the file does.
        images: Absolute paths of its images, whether or not they exist.
        label: Absolute path of its label map; None where the list names none.
        part: `train`, `val` or `test`.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    part: str


def listed_cases(description: Path) -> list[Listed]:
    """The entries of every list in a `dataset.json`; none where it has no list.

    Raises:
        DataError: An entry names no image.
    """
    content = read_json(description)
    dataset = content.get("dataset")
    rows: list[tuple[str, str, Any]] = []
    if isinstance(dataset, Mapping):
        rows += [(str(name), "train", entry) for name, entry in dataset.items()]
    for key, part in _PARTS.items():
        entries = content.get(key)
        if isinstance(entries, Mapping):
            raise DataError(
                f"{description}: {key} is an object with {', '.join(list(map(str, entries))[:3])}; expected a list of "
                '{"image": ..., "label": ...}. Correct it, or remove it to use all files of the folders.'
            )
        rows += [("", part, entry) for entry in entries] if isinstance(entries, list) else []
    return [_listed(description, *row) for row in rows]


def stated_count(description: Path) -> int | None:
    """`numTraining`: how many training cases a `dataset.json` says that there are."""
    count = read_json(description).get("numTraining")
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def cases_of_list(
    entries: Sequence[Listed],
    scanned: Mapping[str, tuple[Path, ...]],
    masks: Mapping[str, Path],
    problems: list[Problem],
) -> Iterator[Case]:
    """The cases of a list; a file that is not there becomes a problem."""
    for entry in entries:
        stem, _ = split_ending(entry.images[0].name, ENDINGS)
        channel = CHANNEL.fullmatch(stem)
        names = [entry.id] if entry.id else [stem, *([channel[1]] if channel else [])]
        name = next((name for name in names if name in scanned), names[0])
        files = entry.images
        if len(files) == 1 and name in scanned and (files[0] in scanned[name] or not files[0].exists()):
            # A list in the Decathlon's notation names one file of a case in nnU-Net's layout, without a channel.
            files = scanned[name]
        label = entry.label or masks.get(name)
        missing = [file for file in (*files, *([label] if label else [])) if not file.exists()]
        problems += [Problem(name, str(file), "listed-missing") for file in missing]
        if not missing:
            named = "" if label is None else split_ending(label.name, ENDINGS)[0]
            if named != name and named in scanned:
                detail = f"dataset.json gives it the label map {label}, whose name is that of another case"
                problems.append(Problem(name, str(files[0]), "paired-otherwise", detail))
            if label is None and entry.part != "test":
                problems.append(Problem(name, str(files[0]), "missing-mask", "dataset.json lists none"))
            yield Case(name, files[0], label, split=entry.part, further=files[1:])


def unlisted(images: Path, scanned: Mapping[str, tuple[Path, ...]], cases: Sequence[Case]) -> Iterator[Problem]:
    """A problem that counts and names the cases of a folder which the list leaves out."""
    used = {file for case in cases for file in case.images}
    others = [name for name, files in scanned.items() if not used.intersection(files)]
    if others:
        some = ", ".join(others[:10]) + (f" and {len(others) - 10} more" if len(others) > 10 else "")
        yield Problem(
            images.name, str(images), "not-listed", f"dataset.json does not list {counted(len(others), 'case')}: {some}"
        )


def _listed(description: Path, name: str, part: str, entry: Any) -> Listed:
    fields = entry if isinstance(entry, Mapping) else {"image": entry}
    images, label = fields.get("images", fields.get("image")), fields.get("label")
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(image, str) and image for image in images):
        raise DataError(
            f"{description} lists {json.dumps(entry)[:120]}; expected the path of an image, or "
            '{"image": ..., "label": ...}. Correct the entry.'
        )
    given = label if isinstance(label, str) and label else None
    folder = description.parent
    return Listed(name, tuple(_path(folder, image) for image in images), given and _path(folder, given), part)


def _path(folder: Path, text: str) -> Path:
    return Path(os.path.abspath(folder / text.replace("\\", "/")))
