"""Scoring a folder of predicted maps, of any origin, against a folder of masks, and pairing such folders by name.

Folders of label maps are scored in `medformer.inference.volumes.scoring`.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.group_table import listed_names
from medformer.errors import DataError
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.summary import summarize
from medformer.files import files_below, sha256, write_csv, write_json
from medformer.foreground import Foreground
from medformer.imaging.mask_rule import decode_mask
from medformer.imaging.masks import read_probability
from medformer.inference.score_table import write_score_table
from medformer.inference.scored_cases import CaseSource
from medformer.names import file_stem, id_fault
from medformer.progress import Reporter, SilentReporter

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm", ".npz"})

TABLE = "scores.csv"
SUMMARY = "metrics.json"

Unpaired = dict[str, list[str]]
"""The names that have no `prediction`, and those that have no `mask`."""

UNSCORED = "unscored.csv"

_COMPARED = 100  # names that a cause is looked for in

_LARGEST_LABEL = 16
"""Maps of probabilities whose largest value is no larger are not believed to be any."""


def score_folder(
    predictions: Path,
    masks: Path,
    *,
    threshold: float = 0.5,
    foreground: Foreground = (),
    cases: CaseSource | None = None,
    unpaired: Unpaired | None = None,
    reporter: Reporter | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score every prediction map against the mask of the same name.

    Files are matched by their path below the two folders without the suffix. If the folders have subfolders, each is
    a site of the summary, so that several test sets are scored in one go.

    Args:
        predictions: Folder of maps: 8-bit or 16-bit gray pictures, or NPZ files with the key `probability`.
        masks: Folder of masks of the same sizes, read by the rule of `medformer.imaging.mask_rule`.
        threshold: For Dice and IoU at one threshold; a map is not stretched for it.
        foreground: The values of the masks that are foreground; empty where the masks themselves tell.
        cases: Where patients, sites and foreground are told; unless given, no patient is known, and there are no
            intervals.
        unpaired: Receives the names that only one folder has; without it, they are refused.
        reporter: Receives each case.

    Returns:
        One row per case (`case_row`, after it `site` where there are subfolders), and their summary (`summarize`).

    Raises:
        DataError: A folder is missing or holds no pictures, the two do not pair up, a file cannot be read, sizes
            differ, the values of the masks do not say what is foreground, or the maps look like label maps.
    """
    reporter = reporter or SilentReporter()
    pairs = pair_folders(predictions, masks, unpaired=unpaired)
    known = (cases or CaseSource()).of(pairs)
    for note in one_folder_note(predictions, masks):
        reporter.line(note)
    nested = any("/" in case for case, _, _ in pairs)
    rows: list[dict[str, Any]] = []
    values: dict[str, dict[str, Path]] = {}
    highest = 0
    for case, prediction_file, mask_file in reporter.track(pairs, "scoring"):
        probability = read_probability(prediction_file)
        highest = max(highest, _largest_value(prediction_file, probability))
        mask = decode_mask(mask_file, foreground or known.foreground.get(case, ()))
        site = case.rpartition("/")[0] or "."
        if mask.value:
            values.setdefault(site, {})[mask.value] = mask_file
        row = case_row(case, probability, mask.foreground, threshold=threshold)
        if nested:
            row["site"] = site
        rows.append(known.add_to(row))
    for found in values.values():
        if len(found) > 1:
            listed = ", ".join(f"{value} in {file}" for value, file in sorted(found.items()))
            raise DataError(
                f"The masks in {masks} store foreground as different values: {listed}; expected one. Name those that "
                f"are foreground, such as --foreground {','.join(sorted(found))}."
            )
    if 0 < highest <= _LARGEST_LABEL:
        raise DataError(
            f"No prediction in {predictions} exceeds {highest} on a scale of 0 to 255: these look like label maps, not "
            "probabilities. Save foreground as 255, so that it is not taken for a probability of "
            f"{highest / 255:.3f}."
        )
    return rows, summarize(rows, strangers=False)


def one_folder_note(predictions: Path, masks: Path) -> list[str]:
    """What to say where a folder is scored against itself."""
    if Path(predictions).resolve() != Path(masks).resolve():
        return []
    return [f"Note: {predictions} and {masks} are one folder, so every file is scored against itself."]


def pair_folders(
    predictions: Path, masks: Path, endings: Collection[str] = SUFFIXES, *, unpaired: Unpaired | None = None
) -> list[tuple[str, Path, Path]]:
    """Match two folders by relative path without ending: (name, prediction, mask), sorted by name.

    Files with other endings, and hidden files, are passed over. It does not matter whether an accent is a character of
    its own, as in names that come from macOS; and predictions of ours are known by the codes in their names.

    Args:
        predictions: Folder of the predictions.
        masks: Folder of the masks.
        endings: Of the files that count.
        unpaired: Receives the names that only one folder has; without it, they are refused.

    Raises:
        DataError: A folder is missing or empty, a name occurs twice in one folder, or in only one of the two, or in
            both there is none.
    """
    folders = {"predictions": Path(predictions), "masks": Path(masks)}
    found = {role: _by_name(folder, role, endings) for role, folder in folders.items()}
    _undo_codes(found["predictions"], found["masks"])
    alone = {
        "prediction": sorted(found["masks"].keys() - found["predictions"].keys()),
        "mask": sorted(found["predictions"].keys() - found["masks"].keys()),
    }
    common = sorted(found["masks"].keys() & found["predictions"].keys())
    if unpaired is not None and common:
        unpaired.update({partner: names for partner, names in alone.items() if names})
    elif any(alone.values()):
        listed = [
            f"{len(names)} without a {partner}: {listed_names(names)}" for partner, names in alone.items() if names
        ]
        cause = _cause(found, predictions)
        raise DataError(
            f"{predictions} and {masks} do not pair up by file name. {'; '.join(listed)}. {cause}"
            "Add what is missing or remove what is too much: a score over part of a test set means something else. "
            "--only-common scores what both have, and lists the others."
        )
    return [(name, found["predictions"][name], found["masks"][name]) for name in common]


def _largest_value(file: Path, probability: NDArray[np.float32]) -> int:
    """The largest 8-bit value of a map, or of label numbers stored in 16 bits; what is stored as floats is no label."""
    largest = float(probability.max())
    if file.suffix.lower() == ".npz":
        return 255 if largest else 0
    numbers = largest * 65535
    return round(numbers) if numbers <= _LARGEST_LABEL + 0.5 else math.ceil(round(largest * 255, 3))


def write_scores(
    out: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], unpaired: Unpaired | None = None
) -> tuple[Path, Path]:
    """Write `scores.csv`, for images `curves.csv`, and `metrics.json` with the hash of the table it was computed from.

    Where names were left out, `unscored.csv` lists them.

    Returns:
        The two paths.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    table, numbers = Path(out) / TABLE, Path(out) / SUMMARY
    write_score_table(table, rows, list(rows[0]))
    write_json(numbers, {"source": {"file": TABLE, "sha256": sha256(table)}, **summary})
    if unpaired:
        lacking = [{"name": name, "without": partner} for partner, names in unpaired.items() for name in names]
        write_csv(Path(out) / UNSCORED, lacking, ["name", "without"])
    return table, numbers


def _undo_codes(predictions: dict[str, Path], masks: Mapping[str, Path]) -> None:
    """Give predictions that were exported under names with codes (see `file_stem`) the names of their masks."""
    for name in masks:
        if name in predictions or id_fault(name):
            continue
        for coded in (file_stem(name), file_stem(name, plain=True)):
            if coded in predictions and coded not in masks:
                predictions[name] = predictions.pop(coded)
                break


def _by_name(folder: Path, role: str, endings: Collection[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"The {role} folder {folder} does not exist or is not a folder. Correct the path.")
    found: dict[str, list[Path]] = {}
    # What has the name of a picture and is none, such as a broken link, is found when it is read.
    for path in files_below(folder):
        ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
        if ending is not None:
            name = path.relative_to(folder).as_posix()[: -len(ending)].strip()
            found.setdefault(unicodedata.normalize("NFC", name), []).append(path)
    if not found:
        raise DataError(f"The {role} folder {folder} holds no file ending in {', '.join(sorted(endings))}.")
    repeated = [" and ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]
    if repeated:
        raise DataError(
            f"The {role} folder {folder} has {len(repeated)} name(s) twice: {listed_names(repeated)}. "
            "Keep one file of each name."
        )
    return {name: paths[0] for name, paths in found.items()}


def _cause(found: Mapping[str, Mapping[str, Path]], predictions: Path) -> str:
    """Say what most names of predictions have before or after the name of a mask; empty where it is nothing."""
    masks = found["masks"].keys() - found["predictions"].keys()
    names = sorted(found["predictions"].keys() - found["masks"].keys())
    more = Counter(
        (before, after)
        for name in names[:_COMPARED]
        for before, mask, after in (name.partition(mask) for mask in masks if mask in name)
        if mask
    )
    if not more:
        return ""
    (before, after), count = more.most_common(1)[0]
    if 2 * count < min(len(names), _COMPARED):
        return ""
    if before.endswith("/") and not after:
        return f"Name the folder of the maps themselves: --predictions {predictions / before}. "
    where = " and ".join(f"{what} '{part}'" for what, part in (("begin with", before), ("end in", after)) if part)
    return f"The names of the predictions {where}, those of the masks do not: rename one of them. "
