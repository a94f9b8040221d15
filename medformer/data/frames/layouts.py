"""Turning folders in a known layout into cases; every file that is left out is named.

Layouts:

* `kvasir`: one folder with `images/` and `masks/`; also several such folders side by side, one per dataset.
* `pranet`: `TrainDataset/{image,masks}` and `TestDataset/<dataset>/{images,masks}`; fills the split.

Images and masks are paired by file name without its ending, so `.jpg` and `.png` may be mixed. A case's id is
`<site>/<stem>`, where the site is the dataset's canonical name, what the user calls it, or the folder's name; folders
of one name also bear the names of the folders above them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medformer.data.cases import Case
from medformer.data.folders import (
    files_by_name,
    find_groups,
    find_sites,
    first_folder,
    folders_below,
    natural_order,
)
from medformer.data.frames.named_splits import PUBLIC, NamedSplit, canonical_dataset, named_split
from medformer.data.problems import Problem
from medformer.errors import ConfigError, DataError, counted
from medformer.files import sha256
from medformer.names import id_fault

Layout = Literal["auto", "kvasir", "pranet"]

_IMAGES = ("images", "image", "Original")
_MASKS = ("masks", "mask", "Ground Truth")
_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        cases: Ready for `write_manifest`.
        problems: Everything that does not fit.
        notes: What the user must know.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


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
    group_pattern: str | None = None,
    split: str | None = None,
    sites: Sequence[str] = (),
    site_pattern: str | None = None,
) -> Scan:
    """List the cases of one or several folders.

    An image without a mask is reported and becomes a case without a mask. A mask without an image, files with the
    same name, and files that are not pictures are reported and left out.

    The group comes from `group_pattern`, else from the named split, else from the table of ClinicDB's sequences.
    It is empty when none of these knows it.

    Args:
        folders: Where to look.
        layout: How the folders are laid out; `auto` recognizes it.
        group_pattern: Regular expression with one group, which finds the patient or sequence in each file's stem.
        split: A named split that fills the split column.
        sites: Where the images come from: one name for all folders, or one for each; empty for the folders' own names.
        site_pattern: Regular expression with one group, which finds the same in each file's stem instead.

    Raises:
        DataError: A folder does not exist, has none of the layouts, or holds no image; no image of a folder has the
            name of a mask; or the site pattern finds nothing in a name.
        ConfigError: The pattern cannot be used (see `find_groups`), or the sites are not one for each folder.
    """
    paths = [Path(folders)] if isinstance(folders, (str, os.PathLike)) else [Path(folder) for folder in folders]
    if group_pattern is not None:
        find_groups(group_pattern, [])  # a bad pattern is said before anything is read
    if site_pattern is not None:
        if sites:
            raise ConfigError("Got --site and --site-pattern; expected one of them.")
        find_groups(site_pattern, [], wanted="site")
    named = None if split is None else named_split(split)
    # A folder that is given twice is read once.
    real = {path.resolve(): path for path in reversed(paths)}
    paths = [path for path in paths if real.get(path.resolve()) is path]
    found = [_folder_pairs(path, layout) for path in paths]
    pairs, notes = _called(paths, found, sites) if sites else _told_apart([pair for some in found for pair in some])
    problems: list[Problem] = []
    cases: dict[str, Case] = {}
    for case in (case for pair in pairs for case in _cases_of(pair, group_pattern, site_pattern, named, problems)):
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
    return Scan(tuple(cases.values()), tuple(problems), tuple(notes))


def _called(
    paths: Sequence[Path], found: Sequence[Sequence[_FolderPair]], sites: Sequence[str]
) -> tuple[list[_FolderPair], list[str]]:
    """The folders under the names that the user gives them."""
    if len(sites) not in (1, len(paths)):
        raise ConfigError(
            f"Got {counted(len(sites), 'site')} for {counted(len(paths), 'folder')}; expected one --site for all, or "
            "one for each folder, in the same order."
        )
    for site in sites:
        if fault := id_fault(site):
            raise ConfigError(f"--site {site!a} cannot begin an id: {fault}.")
    names = list(sites) * (len(paths) if len(sites) == 1 else 1)
    for path, pairs in zip(paths, found, strict=True):
        if len(pairs) > 1:
            inside = ", ".join(sorted(pair.images.parent.name for pair in pairs))
            raise ConfigError(
                f"--site names one data set, and {path} holds several: {inside}. Give these folders, and a --site for "
                "each; or leave out --site, which names each after its folder."
            )
    return [replace(pairs[0], site=name) for name, pairs in zip(names, found, strict=True)], []


def _told_apart(pairs: Sequence[_FolderPair]) -> tuple[list[_FolderPair], list[str]]:
    """Folders of one name, unless it is that of a public data set, get as much of their paths as tells them apart."""
    named: dict[str, list[_FolderPair]] = {}
    for pair in pairs:
        named.setdefault(pair.site, []).append(pair)
    sites: dict[Path, str] = {}
    notes = []
    for site, same in named.items():
        if len(same) == 1 or not site or site in PUBLIC:
            continue
        parts = [Path(os.path.abspath(pair.images.parent)).parts[1:] for pair in same]
        count = next(n for n in range(1, 1 + max(map(len, parts))) if len({part[-n:] for part in parts}) == len(parts))
        names = ["/".join(part[-count:]) for part in parts]
        sites |= dict(zip((pair.images for pair in same), names, strict=True))
        notes.append(
            f"{len(same)} folders are named {site}; their sites are {', '.join(names)}. Name them with --site, once "
            "for each folder; one --site for all makes them one site."
        )
    return [replace(pair, site=sites.get(pair.images, pair.site)) for pair in pairs], notes


def _folder_pairs(folder: Path, layout: Layout) -> list[_FolderPair]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with images/ and masks/. Correct the path.")
    inside = folders_below(folder)
    train, test = ([folder / name] if folder / name in inside else [] for name in ("TrainDataset", "TestDataset"))
    if layout == "pranet" or (layout == "auto" and (train or test)):
        tests = [below for place in test for below in folders_below(place)]
        found = _with_masks(train, "train", site="") + _with_masks(tests, "test")
    else:
        found = _with_masks([folder]) or _with_masks(inside)
    if not found:
        listed = ", ".join(sorted(ascii(entry.name)[1:-1] for entry in folder.iterdir())[:10]) or "nothing"
        half = next((name for name in (*_IMAGES, *_MASKS) if folder / name in inside), None)
        lacks = (
            f" (there is {half}/, and no folder of {'images' if half in _MASKS else 'masks'} beside it)" if half else ""
        )
        raise DataError(
            f"{folder} has no known layout; found {listed}{lacks}; expected images/ and masks/, folders that each have "
            "them, or TrainDataset/ and TestDataset/. Rename the folders or write a CSV manifest by hand."
        )
    return found


def _with_masks(folders: Sequence[Path], split: str = "", site: str | None = None) -> list[_FolderPair]:
    """Those of the folders that hold a folder of images and one of masks."""
    found = []
    for folder in folders:
        images, masks = first_folder(folder, _IMAGES), first_folder(folder, _MASKS)
        if images is not None and masks is not None:
            name = canonical_dataset(Path(os.path.abspath(folder)).name) if site is None else site
            found.append(_FolderPair(images, masks, name, split))
    return found


def _cases_of(
    pair: _FolderPair,
    pattern: str | None,
    site_pattern: str | None,
    named: NamedSplit | None,
    problems: list[Problem],
) -> list[Case]:
    images, masks = (
        files_by_name(folder, _ENDINGS, problems, place=f"{pair.site or folder.parent.name}/")
        for folder in (pair.images, pair.masks)
    )
    _require_one_pair(pair, images, masks)
    cases = []
    stems = sorted(images, key=natural_order)
    sites = {} if site_pattern is None else dict(zip(stems, find_sites(site_pattern, stems), strict=True))
    groups = dict(zip(stems, [None] * len(stems) if pattern is None else find_groups(pattern, stems), strict=True))
    for stem in stems:
        site = sites.get(stem) or pair.site_of(stem)
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
                group=_group(site, stem, groups[stem], named),
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


def _require_one_pair(pair: _FolderPair, images: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
    """Refuse a folder whose images and masks are named by two rules, so that no pair is complete."""
    if not images or not masks or images.keys() & masks.keys():
        return
    image, mask = (min(names, key=natural_order) for names in (images, masks))
    more = next((mask.replace(stem, "", 1) for stem in images if stem in mask), "")
    advice = f"Take '{more}' out of the names of the masks" if more else "Give masks the names of their images"
    raise DataError(
        f"No image in {pair.images} has the name of a mask in {pair.masks}: the first image is {images[image].name}, "
        f"the first mask {masks[mask].name}; expected equal names before the ending. {advice}, or write a CSV manifest "
        "with the columns id, image, mask."
    )


def _group(site: str, stem: str, group: str | None, named: NamedSplit | None) -> str:
    if group is not None:
        return f"{site}/{group}" if group else ""
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
