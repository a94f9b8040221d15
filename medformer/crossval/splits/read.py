"""Reading a split by what it is: a JSON file, a CSV table, lists of names, a folder of them, or a published split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medformer.crossval.splits.given import GivenDivision, GivenSplit
from medformer.crossval.splits.json_split import json_split
from medformer.crossval.splits.table_split import divisions_of, table_split
from medformer.data.case_names import posix_name, without_ending
from medformer.data.cases import Case
from medformer.data.frames.layouts import scan
from medformer.data.frames.named_splits import NAMED_SPLITS, named_split
from medformer.errors import ConfigError, DataError
from medformer.files import file_fault

_PARTS = ("train", "val", "test", "dev")
_NNUNET = "splits_final.json"


def read_split(sources: Sequence[Path]) -> GivenSplit:
    """Read a split of any known form.

    Args:
        sources: One file, folder or name of a published split; or lists of names (.txt), one for each part.

    Raises:
        ConfigError: No such file or name, or several that are not all lists.
        DataError: It has none of the forms.
    """
    lists = [path for path in sources if path.suffix.lower() == ".txt"]
    if lists and len(lists) == len(sources):
        return _lists(sources, ", ".join(map(str, sources)))
    if len(sources) != 1:
        raise ConfigError(
            f"--splits got {len(sources)} sources ({', '.join(map(str, sources))}); expected one, or a .txt list for "
            "each part, such as --splits train.txt --splits test.txt."
        )
    path = sources[0]
    if not path.exists() and str(path) in NAMED_SPLITS:
        return _named(str(path))
    if path.is_dir():
        return _folder(path)
    if fault := file_fault(path):
        raise ConfigError(
            f"--splits {path} {fault}. Expected a file (.json, .csv, .txt), a folder of lists, or a published split: "
            f"{', '.join(NAMED_SPLITS)}."
        )
    if path.suffix.lower() == ".json":
        return json_split(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return table_split(path)
    raise ConfigError(
        f"--splits {path}: expected a file that ends in .json, .csv, .tsv or .txt, or a folder of lists. Rename it."
    )


def own_split(cases: Sequence[Case], source: Path) -> GivenSplit:
    """The split that the data's own column or folders give.

    Raises:
        ConfigError: They give none.
    """
    parts: dict[str, list[str]] = {}
    for case in cases:
        if case.split:
            parts.setdefault(case.split, []).append(case.id)
    if len(parts) < 2:
        raise ConfigError(
            f"{source} has no split of its own with two parts. Name the split: --splits FILE, such as nnU-Net's "
            f"{_NNUNET}, a CSV with id and fold or split, or train.txt and test.txt."
        )
    return GivenSplit(str(source), "the split of the data", (GivenDivision("", _frozen(parts)),))


def _frozen(parts: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {part: tuple(names) for part, names in parts.items()}


def _named(name: str) -> GivenSplit:
    rows = [
        {"id": f"{row.dataset}/{row.stem}", "split": row.split, "fold": row.fold}
        for row in named_split(name).rows.values()
    ]
    return GivenSplit(name, f"the published split {name}", divisions_of(rows, "split"))


def _folder(folder: Path) -> GivenSplit:
    if (folder / _NNUNET).is_file():
        return json_split(folder / _NNUNET)
    if (folder / "TrainDataset").is_dir() and (folder / "TestDataset").is_dir():
        parts: dict[str, list[str]] = {}
        for case in scan(folder, layout="pranet").cases:
            parts.setdefault(case.split, []).append(case.id)
        return GivenSplit(str(folder), "PraNet's folders", (GivenDivision("", _frozen(parts)),))
    lists = sorted(file for file in folder.glob("*.txt") if file.stem.casefold().startswith(_PARTS))
    if len(lists) < 2:
        raise DataError(
            f"{folder} holds no split; expected lists such as train.txt and test.txt, {_NNUNET}, or the folders "
            "TrainDataset and TestDataset."
        )
    return _lists(lists, str(folder))


def _lists(files: Sequence[Path], source: str) -> GivenSplit:
    """Lists of names, one file for each part."""
    if len(files) < 2:
        raise ConfigError(
            f"--splits {files[0]}: one list is one part; expected one for each part, such as --splits train.txt "
            "--splits test.txt, or the folder that holds them."
        )
    parts = {file.stem: tuple(_names(file)) for file in files}
    if len(parts) < len(files):
        raise ConfigError(f"--splits: two of the lists {source} have one name. Rename one, such as train.txt.")
    return GivenSplit(source, f"lists of names ({', '.join(parts)})", (GivenDivision("", parts),))


def _names(file: Path) -> list[str]:
    """The names of a list, one a line; where image and mask stand beside each other, that of the image."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); expected a list of names, one a line, in UTF-8.") from None
    names = [_first(line) for line in lines if line and not line.startswith("#")]
    if not names:
        raise DataError(f"{file} is empty; expected a list of names, one a line.")
    return names


def _first(line: str) -> str:
    for separator in (",", "\t", " "):
        columns = [posix_name(part) for part in line.split(separator) if part.strip()]
        if len(columns) == 2 and _stem(columns[0]) == _stem(columns[1]):
            return columns[0]
    return line


def _stem(name: str) -> str:
    return without_ending(name.rpartition("/")[2])
