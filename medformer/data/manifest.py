"""The manifest: one CSV file that says which cases there are, for every task.

Columns: `id, image, mask, group, site, split, sha256`, then free covariates. Only `id` and `image` must be there.

* `id` is unique and may hold `/` (it names the exported files, see `medformer.names`), but never leads out of a folder.
* `image_1`, `image_2`, ... are further channels of the same scan, on the same grid; only volumes have them.
* `image` and `mask` are relative to the manifest's folder. When prepare writes the manifest away from the data,
  a sidecar `<manifest name>.root.json` names the folder that the paths are relative to instead. Absolute paths and
  paths that climb out are refused; links are followed wherever they lead.
* `group` is the patient or the sequence: what must never be on both sides of a split.
* `split` is the part of a published split. A row whose part begins with `test` is in no fold of a cross-validation.
* `label` is the class of the whole case, 1 (positive) or 0, where cases are classified. Any other text in a column of
  this name is an ordinary covariate.
* `mask_foreground` names the values of a picture's mask that are foreground (see `medformer.foreground`), where it
  holds others than 0 and 1, or 0 and 255.
* `sha256` is the hash of the image (see `image_hash`), and lets `check` notice a file that changed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from medformer.data.cases import LABEL, Case
from medformer.data.people import PERSON_COLUMNS, column_name
from medformer.data.problems import first_ten
from medformer.data.tables import TableForm, read_cells, read_records
from medformer.errors import DataError, ResourceError
from medformer.files import digest, read_json, write_csv, write_json
from medformer.foreground import parse_foreground
from medformer.missing import known
from medformer.names import holds_controls, id_fault

COLUMNS = ("id", "image", "mask", "group", "site", "split", "sha256")
FOREGROUND = "mask_foreground"
"""Column of the values of a mask that are foreground."""

_PATIENT = {*PERSON_COLUMNS, "patient", "patient_id", "patientid", "case_id", "sequence", "sequence_id"} - {"id", "ids"}
"""Names of columns that probably hold the group."""

_CHANNEL = re.compile(r"image_[1-9]\d*")
_TABLE = TableForm(
    what="a CSV manifest",
    origin="`prepare` writes one from a folder of images and masks.",
    columns=COLUMNS,
    required=("id", "image"),
    per_row="case",
)


@dataclass(frozen=True)
class Manifest:
    """The cases of one manifest file, in the file's order.

    Attributes:
        path: The CSV file.
        root: Absolute folder that the file's relative paths start from.
        cases: Its rows.
    """

    path: Path
    root: Path
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        _require_ids(self.cases, str(self.path))

    @cached_property
    def by_id(self) -> dict[str, Case]:
        """Cases by id."""
        return {case.id: case for case in self.cases}

    def digest(self) -> str:
        """SHA-256 over every column except the paths, so that moving the data does not change it."""
        return digest(
            [
                case_values(case)
                | {"sha256": case.sha256}
                | ({"channels": str(len(case.images))} if case.further else {})
                for case in self.cases
            ]
        )


def read_manifest(
    path: str | os.PathLike[str], *, ungrouped: Literal["error", "each"] = "error", root: Path | None = None
) -> Manifest:
    """Read and validate a manifest; whether the pictures exist and decode is `check_cases`' work.

    Args:
        path: The CSV file (UTF-8, commas; a byte-order mark and either kind of line end are tolerated).
        ungrouped: What to do with a row without a group: refuse it, or make each such row its own group.
        root: Folder that relative paths start from, instead of the manifest's own or the sidecar's.

    Raises:
        DataError: The file is missing or no such table, a column is missing or doubled, a row is ragged, an id is
            empty, doubled or unsafe, a path climbs out, a group is unknown, or there are no rows. All bad rows
            are counted and the first ten are named.
    """
    path = Path(path)
    rows = read_records(path, _TABLE, lambda row: _fault(row, ungrouped), dict, verbatim=_is_path)
    base = _root_of(path, root)
    return Manifest(path, base, tuple(_case(row, base) for row in rows))


def is_manifest(path: Path) -> bool:
    """Whether a file has every column that `write_manifest` writes."""
    try:
        return set(COLUMNS) <= set(read_cells(path, _TABLE)[0])
    except DataError:
        return False


def write_manifest(path: str | os.PathLike[str], cases: Sequence[Case]) -> None:
    """Write a manifest that `read_manifest` reads back to the same cases.

    When `path` is not in a folder above all the files, the sidecar `<name>.root.json` is written beside it.

    Raises:
        DataError: There are no cases, or an id or a path cannot stand in the table.
        ResourceError: The folder is not writable or the disk is full.
    """
    path = Path(os.path.abspath(path))
    if not cases:
        raise DataError(f"There are no cases to write to {path}; expected at least one.")
    _require_ids(cases, str(path))
    files = [os.path.abspath(file) for case in cases for file in (*case.images, case.mask) if file is not None]
    folders = sorted({os.path.dirname(file) for file in files})
    base = str(path.parent)
    inside = all(os.path.commonpath([base, folder]) == base for folder in folders)
    if not inside:
        base = os.path.commonpath(folders)
    values = [{**case_values(case), "sha256": case.sha256} for case in cases]
    extra = sorted({name for row in values for name in row} - set(COLUMNS))
    channels = _channel_columns(max(len(case.further) for case in cases))
    rows = [
        {
            **dict.fromkeys(extra, ""),
            **row,
            "image": "" if case.image is None else _relative(case.image, base),
            **dict.fromkeys(channels, ""),
            **{name: _relative(file, base) for name, file in zip(channels, case.further, strict=False)},
            "mask": "" if case.mask is None else _relative(case.mask, base),
        }
        for case, row in zip(cases, values, strict=True)
    ]
    sidecar = _sidecar(path)
    if not inside:
        try:
            write_json(sidecar, {"root": base})
        except ResourceError as error:
            # Nobody named the sidecar.
            raise ResourceError(str(error).replace(str(sidecar), str(path))) from error
    write_csv(path, rows, [*COLUMNS[:2], *channels, *COLUMNS[2:], *extra])
    if inside:
        _remove(sidecar)


def _require_ids(cases: Sequence[Case], where: str) -> None:
    """Apply the rule of ids before anything is read or written under them.

    Raises:
        DataError: Ids that cannot be ids, or that two cases share; they are counted, and the first ten named.
    """
    times = Counter(case.id for case in cases)
    faults = {
        case.id: id_fault(case.id) or ("several cases have this id" if times[case.id] > 1 else "") for case in cases
    }
    wrong = [f"{identifier!a}: {fault}" for identifier, fault in faults.items() if fault]
    if wrong:
        raise DataError(f"{where}: {len(wrong)} ids cannot be used:{first_ten(wrong)}")


def case_values(case: Case) -> dict[str, str]:
    """Everything that a table says of a case except its files and their hash, by column."""
    return {
        **case.covariates,
        **({} if case.label is None else {LABEL: str(case.label)}),
        **({FOREGROUND: ",".join(case.foreground)} if case.foreground else {}),
        "id": case.id,
        "group": case.group,
        "site": case.site,
        "split": case.split,
    }


def _case(row: Mapping[str, str], base: Path) -> Case:
    mask, label = row.get("mask", ""), row.get(LABEL, "")
    classified = label in {"0", "1"}
    own = {*COLUMNS, FOREGROUND, *([LABEL] if classified else [])}
    return Case(
        id=row["id"],
        image=base / _posix(row["image"]),
        mask=base / _posix(mask) if mask else None,
        group=known(row.get("group", "")) or row["id"],
        site=known(row.get("site")),
        split=known(row.get("split")),
        sha256=row.get("sha256", "").lower(),
        covariates={name: value for name, value in row.items() if name not in own and not _is_path(name)},
        further=tuple(base / _posix(row[name]) for name in _given_channels(row)),
        label=int(label) if classified else None,
        foreground=parse_foreground(row.get(FOREGROUND, "")),
    )


def _is_path(column: str) -> bool:
    return column in {"image", "mask"} or _CHANNEL.fullmatch(column) is not None


def _channel_columns(count: int) -> list[str]:
    return [f"image_{number}" for number in range(1, count + 1)]


def _given_channels(row: Mapping[str, str]) -> list[str]:
    return sorted((name for name, cell in row.items() if cell and _CHANNEL.fullmatch(name)), key=lambda n: int(n[6:]))


def _fault(row: Mapping[str, str], ungrouped: str) -> str | None:
    if not row["image"]:
        return "no image is given"
    channels = _given_channels(row)
    if channels != _channel_columns(len(channels)):
        given, expected = ", ".join(channels), ", ".join(_channel_columns(len(channels)))
        return f"its further channels are {given}; expected {expected}: a channel is missing"
    for column in ("image", *channels, "mask"):
        text = row.get(column, "")
        if text and _leads_out(text):
            return (
                f"the {column} path '{text}' leads out of the manifest's folder; "
                "expected a path relative to it, without climbing out. "
                "Move the manifest above the data, or link the data below it"
            )
    try:
        parse_foreground(row.get(FOREGROUND, ""))
    except ValueError as error:
        return f"{FOREGROUND}: {error}"
    if ungrouped == "error" and not known(row.get("group", "")):
        named = next((name for name in row if column_name(name) in _PATIENT and known(row[name])), None)
        fill = "Fill the column" if named is None else f"Name the column '{named}' group, if it says so"
        return (
            f"the group (patient or sequence) is unknown, so leakage cannot be ruled out. {fill}, "
            "give `prepare` a group pattern, or --ungrouped each if every row really is of another patient"
        )
    return None


def _leads_out(text: str) -> bool:
    posix = _posix(text)
    if "\0" in text or PurePosixPath(posix).is_absolute() or PureWindowsPath(text).drive:
        return True
    return os.path.normpath(posix).split(os.sep)[0] == ".."


def _root_of(path: Path, root: Path | None) -> Path:
    sidecar = _sidecar(path)
    if root is None and sidecar.exists():
        try:
            root = Path(read_json(sidecar)["root"])
        except (ValueError, KeyError, TypeError, OSError):
            raise DataError(f'{sidecar} is not {{"root": "<absolute folder>"}}; correct or remove it.') from None
        if not root.is_absolute():
            raise DataError(f"{sidecar} names the root '{root}'; expected an absolute folder.")
    base = Path(os.path.abspath(path.parent if root is None else root))
    if not base.is_dir():
        raise DataError(f"The data root {base} of {path} is not a folder; correct it, or run `prepare` again.")
    return base


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.root.json")


def _remove(sidecar: Path) -> None:
    try:
        sidecar.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"Could not remove {sidecar} ({error.strerror}); it is out of date, remove it.") from error


def _relative(file: Path, base: str) -> str:
    """Write a path for the table.

    Raises:
        DataError: It would read back as another one.
    """
    text = Path(os.path.relpath(os.path.abspath(file), base)).as_posix()
    if "\\" in text or holds_controls(text):
        raise DataError(
            f"The path {text!a} holds a backslash, a control character, or bytes that are not UTF-8, which a manifest "
            "cannot keep. Rename the folder or the file."
        )
    return text


def _posix(text: str) -> str:
    return text.replace("\\", "/")
