"""Turning folders in a known layout into cases; every file that is left out is named.

Layouts:

* `kvasir`: one folder with `images/` and `masks/`; also several such folders side by side, one per dataset.
* `pranet`: `TrainDataset/{image,masks}` and `TestDataset/<dataset>/{images,masks}`; fills the split.

Images and masks are paired by file name without its ending, so `.jpg` and `.png` may be mixed. A case's id is
`<site>/<stem>`, where the site is the dataset's canonical name or the folder's.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medformer.data.frames.named_splits import NamedSplit, canonical_dataset, named_split
from medformer.data.manifest import Case
from medformer.data.problems import Problem
from medformer.errors import ConfigError, DataError
from medformer.files import sha256
from medformer.progress import Reporter, SilentReporter

Layout = Literal["auto", "kvasir", "pranet"]

_IMAGES = ("images", "image", "Original")
_MASKS = ("masks", "mask", "Ground Truth")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Scan:
    """What a folder holds: cases ready for `write_manifest`, and everything that does not fit."""

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _FolderPair:
    """One folder of images and its folder of masks.

    Attributes:
        images: Folder of the images.
        masks: Folder of the masks.
        site: Name of the dataset; empty for PraNet's training folder, which mixes two.
        split: Part that the layout stands for; empty when it says nothing.
    """

    images: Path
    masks: Path
    site: str
    split: str

    def site_of(self, stem: str) -> str:
        """The dataset of a file; PraNet's list says which file of the training folder is from which."""
        return self.site or named_split("pranet").dataset_of(stem, "train") or self.images.parent.name


def scan(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    layout: Layout = "auto",
    site: str | None = None,
    group_pattern: str | None = None,
    split: str | None = None,
    reporter: Reporter | None = None,
) -> Scan:
    """List the cases of one or several folders.

    An image without a mask is reported and becomes a case without a mask. A mask without an image, files with the
    same name, and files that are not pictures are reported and left out.

    The group comes from `group_pattern`, else from the named split, else from the table of ClinicDB's sequences.
    It is empty when none of these knows it.

    Args:
        folders: Where to look.
        layout: How the folders are laid out; `auto` recognizes it.
        site: Name of the dataset, instead of the folder's; for a single pair of folders only.
        group_pattern: Regular expression with one group, which finds the patient or sequence in each file's stem.
        split: A named split that fills the split column.
        reporter: Receives one step per case.

    Raises:
        DataError: A folder does not exist, has none of the layouts, or holds no image.
        ConfigError: The pattern does not compile or has not exactly one group, or `site` names several datasets.
    """
    paths = [Path(folders)] if isinstance(folders, (str, os.PathLike)) else [Path(folder) for folder in folders]
    pattern = group_expression(group_pattern)
    named = None if split is None else named_split(split)
    pairs = [pair for path in paths for pair in _folder_pairs(path, layout)]
    if site is not None:
        if len(pairs) != 1:
            raise ConfigError(
                f"The site '{site}' was given for {len(pairs)} datasets; expected one. Prepare them one by one."
            )
        pairs = [replace(pairs[0], site=site)]
    problems: list[Problem] = []
    cases: dict[str, Case] = {}
    found = (case for pair in pairs for case in _cases_of(pair, pattern, named, problems))
    for case in (reporter or SilentReporter()).track(found, "listing"):
        if case.id in cases:
            detail = f"{cases[case.id].image} has the same name; only that file is kept"
            problems.append(Problem(case.id, str(case.image), "duplicate-name", detail))
        else:
            cases[case.id] = case
    if not cases:
        raise DataError(
            f"No images were found in {', '.join(map(str, paths))}; expected pictures in images/ and masks/."
        )
    if named is not None:
        problems.extend(_split_problems(cases, named))
    return Scan(tuple(cases.values()), tuple(problems))


def _folder_pairs(folder: Path, layout: Layout) -> list[_FolderPair]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with images/ and masks/. Correct the path.")
    train, test = folder / "TrainDataset", folder / "TestDataset"
    if layout == "pranet" or (layout == "auto" and (train.is_dir() or test.is_dir())):
        found = _with_masks([train], "train", site="") + _with_masks(_subfolders(test), "test")
    else:
        found = _with_masks([folder]) or _with_masks(_subfolders(folder))
    if not found:
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
        raise DataError(
            f"{folder} has no known layout; found {inside}; expected images/ and masks/, folders that each have them, "
            "or TrainDataset/ and TestDataset/. Rename the folders or write a CSV manifest by hand."
        )
    return found


def _with_masks(folders: Sequence[Path], split: str = "", site: str | None = None) -> list[_FolderPair]:
    """Those of the folders that hold a folder of images and one of masks."""
    found = []
    for folder in folders:
        images = next((folder / name for name in _IMAGES if (folder / name).is_dir()), None)
        masks = next((folder / name for name in _MASKS if (folder / name).is_dir()), None)
        if images is not None and masks is not None:
            name = canonical_dataset(Path(os.path.abspath(folder)).name) if site is None else site
            found.append(_FolderPair(images, masks, name, split))
    return found


def _cases_of(
    pair: _FolderPair, pattern: re.Pattern[str] | None, named: NamedSplit | None, problems: list[Problem]
) -> list[Case]:
    images, masks = (_pictures(folder, pair.site, problems) for folder in (pair.images, pair.masks))
    cases = []
    for stem in sorted(images, key=natural_order):
        site = pair.site_of(stem)
        mask = masks.pop(stem, None)
        case_id = f"{site}/{stem}"
        if mask is None:
            problems.append(Problem(case_id, str(images[stem]), "missing-mask", f"no {stem}.* in {pair.masks}"))
        row = None if named is None else named.find(site, stem)
        covariates = {} if mask is None else {"mask_sha256": sha256(mask)}
        if row is not None and row.fold:
            covariates["fold"] = row.fold
        cases.append(
            Case(
                id=case_id,
                image=images[stem],
                mask=mask,
                group=_group(site, stem, pattern, named),
                site=site,
                split=pair.split if named is None else row.split if row is not None else "",
                sha256=sha256(images[stem]),
                covariates=covariates,
            )
        )
    for stem in sorted(masks, key=natural_order):
        case_id = f"{pair.site_of(stem)}/{stem}"
        problems.append(Problem(case_id, str(masks[stem]), "missing-image", f"no {stem}.* in {pair.images}"))
    return cases


def _pictures(folder: Path, site: str, problems: list[Problem]) -> dict[str, Path]:
    """Pictures of a folder by stem; files that share a name are reported and left out."""
    by_stem: dict[str, list[Path]] = {}
    where = site or folder.parent.name
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "Thumbs.db":
            continue
        stem = unicodedata.normalize("NFC", entry.stem)
        if entry.suffix.lower() not in _SUFFIXES or entry.is_dir():
            what = "is a folder" if entry.is_dir() else f"has the ending '{entry.suffix}'"
            problems.append(Problem(f"{where}/{stem}", str(entry), "not-an-image", what))
            continue
        by_stem.setdefault(stem, []).append(Path(os.path.abspath(entry)))
    for stem, files in by_stem.items():
        if len(files) > 1:
            detail = f"{', '.join(file.name for file in files)} share a name; all are left out; keep one of them"
            problems.append(Problem(f"{where}/{stem}", str(files[0]), "duplicate-name", detail))
    return {stem: files[0] for stem, files in by_stem.items() if len(files) == 1}


def _group(site: str, stem: str, pattern: re.Pattern[str] | None, named: NamedSplit | None) -> str:
    if pattern is not None:
        match = pattern.search(stem)
        return f"{site}/{match.group(1)}" if match and match.group(1) else ""
    for table in (named, named_split("clinicdb-sequences")):
        row = None if table is None else table.find(site, stem)
        if row is not None and row.group:
            return f"{site}/{row.group}"
    return ""


def _split_problems(cases: Mapping[str, Case], named: NamedSplit) -> list[Problem]:
    problems = [
        Problem(case.id, str(case.image), "not-in-split", f"'{named.name}' does not list it; its split stays empty")
        for case in cases.values()
        if named.find(case.site, case.id.removeprefix(f"{case.site}/")) is None
    ]
    for site in dict.fromkeys(case.site for case in cases.values()):
        for stem in named.stems(site):
            if f"{site}/{stem}" not in cases:
                problems.append(Problem(f"{site}/{stem}", "", "split-case-missing", f"'{named.name}' lists it"))
    return problems


def group_expression(pattern: str | None) -> re.Pattern[str] | None:
    """Compile a group pattern.

    Raises:
        ConfigError: It does not compile or has not exactly one group.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"The group pattern '{pattern}' is not a regular expression: {error}.") from None
    if compiled.groups != 1:
        raise ConfigError(
            f"The group pattern '{pattern}' has {compiled.groups} groups; expected exactly one pair of parentheses, "
            "around the patient or sequence, such as '^(\\d+)_'."
        )
    return compiled


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def natural_order(stem: str) -> tuple[tuple[bool, int, str], ...]:
    """Order 2 before 10."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", stem))
