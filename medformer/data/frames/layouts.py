"""Turning folders in a known layout into cases; nothing is dropped without being named.

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
from dataclasses import dataclass
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
class _Source:
    """One pair of folders; `site` is empty where each file's dataset must be looked up by its stem."""

    site: str
    split: str
    images: Path
    masks: Path


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

    An image without a mask stays a case without a mask and is reported; a mask without an image, a name that two
    files claim, and files that are no pictures are reported and left out.

    The group comes from `group_pattern`, else from the named split, else from the table of ClinicDB's sequences;
    it stays empty where none of them knows it.

    Args:
        folders: Where to look.
        layout: How the folders are laid out; `auto` recognizes it.
        site: Name of the dataset, instead of the folder's; for a single pair of folders only.
        group_pattern: Regular expression with one group, searched in each file's stem: the patient or sequence.
        split: A named split that fills the split column.
        reporter: Told about the hashing.

    Raises:
        DataError: A folder does not exist, has none of the layouts, or holds no pair at all.
        ConfigError: The pattern does not compile or has not exactly one group, or `site` names several datasets.
    """
    paths = [Path(folders)] if isinstance(folders, (str, os.PathLike)) else [Path(folder) for folder in folders]
    pattern = group_expression(group_pattern)
    named = None if split is None else named_split(split)
    sources = [source for path in paths for source in _sources(path, layout)]
    if site is not None:
        if len(sources) != 1:
            raise ConfigError(
                f"The site '{site}' was given for {len(sources)} datasets; expected one. Prepare them one by one."
            )
        sources = [_Source(site, sources[0].split, sources[0].images, sources[0].masks)]
    reporter = reporter or SilentReporter()
    reporter.start("listing", None)
    problems: list[Problem] = []
    cases: dict[str, Case] = {}
    try:
        for source in sources:
            for case in _pair(source, pattern, named, problems):
                if case.id in cases:
                    detail = f"{cases[case.id].image} has this name too; only that one is kept"
                    problems.append(Problem(case.id, str(case.image), "duplicate-name", detail))
                    continue
                cases[case.id] = case
                reporter.advance()
    finally:
        reporter.finish()
    if not cases:
        raise DataError(
            f"No images were found in {', '.join(map(str, paths))}; expected pictures in images/ and masks/."
        )
    if named is not None:
        problems.extend(_split_problems(cases, named))
    return Scan(tuple(cases.values()), tuple(problems))


def _sources(folder: Path, layout: Layout) -> list[_Source]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with images/ and masks/. Correct the path.")
    train, test = folder / "TrainDataset", folder / "TestDataset"
    if layout == "pranet" or (layout == "auto" and (train.is_dir() or test.is_dir())):
        found = [_Source("", "train", *pair)] if (pair := _pair_of_folders(train)) else []
        for dataset in _subfolders(test):
            if pair := _pair_of_folders(dataset):
                found.append(_Source(canonical_dataset(dataset.name), "test", *pair))
    elif pair := _pair_of_folders(folder):
        found = [_Source(canonical_dataset(Path(os.path.abspath(folder)).name), "", *pair)]
    else:
        found = [
            _Source(canonical_dataset(dataset.name), "", *pair)
            for dataset in _subfolders(folder)
            if (pair := _pair_of_folders(dataset))
        ]
    if not found:
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
        raise DataError(
            f"{folder} has no known layout; found {inside}; expected images/ and masks/, folders that each have them, "
            "or TrainDataset/ and TestDataset/. Rename the folders or write a CSV manifest by hand."
        )
    return found


def _pair(
    source: _Source, pattern: re.Pattern[str] | None, named: NamedSplit | None, problems: list[Problem]
) -> list[Case]:
    images = _pictures(source.images, source.site, problems)
    masks = _pictures(source.masks, source.site, problems)
    cases = []
    for stem in sorted(images, key=natural_order):
        site = source.site or _dataset_of_training_stem(stem, source)
        mask = masks.pop(stem, None)
        case_id = f"{site}/{stem}"
        if mask is None:
            problems.append(Problem(case_id, str(images[stem]), "missing-mask", f"no {stem}.* in {source.masks}"))
        row = named.find(site, stem) if named is not None else None
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
                split=(row.split if row is not None else "") if named is not None else source.split,
                sha256=sha256(images[stem]),
                covariates=covariates,
            )
        )
    for stem in sorted(masks, key=natural_order):
        site = source.site or _dataset_of_training_stem(stem, source)
        problems.append(Problem(f"{site}/{stem}", str(masks[stem]), "missing-image", f"no {stem}.* in {source.images}"))
    return cases


def _pictures(folder: Path, site: str, problems: list[Problem]) -> dict[str, Path]:
    """Pictures of a folder by stem; names that two files claim are reported and left out."""
    by_stem: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "Thumbs.db":
            continue
        stem = unicodedata.normalize("NFC", entry.stem)
        if entry.suffix.lower() not in _SUFFIXES or entry.is_dir():
            what = "is a folder" if entry.is_dir() else f"has the ending '{entry.suffix}'"
            problems.append(Problem(f"{site or folder.parent.name}/{stem}", str(entry), "not-an-image", what))
            continue
        by_stem.setdefault(stem, []).append(Path(os.path.abspath(entry)))
    for stem, files in by_stem.items():
        if len(files) > 1:
            detail = f"{', '.join(file.name for file in files)} share a name; all are left out, keep one"
            problems.append(Problem(f"{site or folder.parent.name}/{stem}", str(files[0]), "duplicate-name", detail))
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
        if named.find(case.site, _stem(case)) is None
    ]
    for site in dict.fromkeys(case.site for case in cases.values()):
        for stem in named.stems(site):
            if f"{site}/{stem}" not in cases:
                problems.append(Problem(f"{site}/{stem}", "", "split-case-missing", f"'{named.name}' lists it"))
    return problems


def _stem(case: Case) -> str:
    return case.id[len(case.site) + 1 :]


def _dataset_of_training_stem(stem: str, source: _Source) -> str:
    """PraNet's training folder mixes two datasets; its list says which file is from which."""
    return named_split("pranet").dataset_of(stem, "train") or source.images.parent.name


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
        raise ConfigError(f"The group pattern '{pattern}' is no regular expression: {error}.") from None
    if compiled.groups != 1:
        raise ConfigError(
            f"The group pattern '{pattern}' has {compiled.groups} groups; expected exactly one pair of parentheses, "
            "around the patient or sequence, such as '^(\\d+)_'."
        )
    return compiled


def _pair_of_folders(folder: Path) -> tuple[Path, Path] | None:
    images = next((folder / name for name in _IMAGES if (folder / name).is_dir()), None)
    masks = next((folder / name for name in _MASKS if (folder / name).is_dir()), None)
    return None if images is None or masks is None else (images, masks)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def natural_order(stem: str) -> tuple[tuple[bool, int, str], ...]:
    """Order 2 before 10."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", stem))
