"""The manifest of a cohort: who there is, and what is known of each subject beside the brain.

Columns: `id, group, site, split, label, age, sex, mean_fd`, then free covariates. Only `id` and `label` must be there.

* `group` is the person: scans of one person share it. It is the id where the column is empty.
* `label` is 1 for autism (ASD), the positive class everywhere, and 0 for control. It may be empty only where subjects
  without a label are asked for, as in pretraining.
* `age` is in years, `sex` M or F, `mean_fd` the mean framewise displacement in mm; each may be empty.

The feature store lies beside it, in `features/`.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from medformer.data.connectomes.store import FeatureStore, open_store
from medformer.data.tables import TableForm, id_fault, read_table, require_good_rows
from medformer.errors import DataError
from medformer.files import digest, write_csv
from medformer.missing import known

MANIFEST_FILE = "manifest.csv"
FEATURES = "features"
UNLABELLED = -1
"""Label of a subject without one."""

COLUMNS = ("id", "group", "site", "split", "label", "age", "sex", "mean_fd")
_OWN = ("id", "group", "site", "split", "label")
_NUMBERS = ("age", "mean_fd")
_TABLE = TableForm(
    what="a cohort manifest (CSV)",
    origin="`medformer abide prepare` writes one.",
    columns=COLUMNS,
    required=("id", "label"),
    per_row="subject",
)


@dataclass(frozen=True)
class Subject:
    """One scan of one person.

    Attributes:
        id: Unique name, as in the feature store.
        group: The person.
        site: Where the scan was made; empty when not known.
        label: 1 autism, 0 control, `UNLABELLED` not known.
        split: Part of a published split; empty when there is none.
        covariates: Every other column, as text: age, sex and mean_fd among them.
    """

    id: str
    group: str
    site: str
    label: int
    split: str = ""
    covariates: Mapping[str, str] = field(default_factory=dict)

    def covariate(self, name: str) -> float:
        """Age in years, mean framewise displacement in mm, or sex (0 F, 1 M), as a number.

        Raises:
            DataError: It is not known of this subject.
        """
        text = known(self.covariates.get(name, ""))
        if not text:
            raise DataError(
                f"The {name} of subject '{self.id}' is not known, and this run needs it. Fill it in the manifest, "
                "leave the subject out, or do without this covariate."
            )
        return {"F": 0.0, "M": 1.0}[text] if name == "sex" else float(text)


@dataclass(frozen=True)
class Cohort:
    """The subjects of one manifest, in the file's order, and the store that holds their connectomes.

    Attributes:
        path: The CSV file.
        subjects: Its rows.
        store: May hold more subjects than the manifest, never fewer.
    """

    path: Path
    subjects: tuple[Subject, ...]
    store: FeatureStore

    @cached_property
    def by_id(self) -> dict[str, Subject]:
        """Subjects by id."""
        return {subject.id: subject for subject in self.subjects}

    @cached_property
    def rows(self) -> list[int]:
        """Row of each subject in the store's blocks."""
        return [self.store.rows[subject.id] for subject in self.subjects]

    def digest(self) -> str:
        """SHA-256 over every column and every stored number, so that moving the folder does not change it."""
        return digest([[_values(subject) for subject in self.subjects], self.store.digest()])


def read_cohort(
    path: str | os.PathLike[str], *, unlabelled: Literal["error", "allow"] = "error", features: Path | None = None
) -> Cohort:
    """Read and validate a cohort.

    Args:
        path: The manifest, or the folder it is in.
        unlabelled: Whether a subject without a label is refused.
        features: Folder of the feature store, when it is not beside the manifest.

    Raises:
        DataError: The manifest is missing or no such table, a row is ragged, an id is empty, doubled, unsafe or not in
            the store, a label, age, sex or mean_fd makes no sense, or there are no rows. All bad rows are counted and
            the first ten named. Or the store is missing or damaged.
    """
    path = Path(path)
    path = path / MANIFEST_FILE if path.is_dir() else path
    header, rows = read_table(path, _TABLE)
    store = open_store(features or path.parent / FEATURES)
    problems: list[str] = []
    subjects: dict[str, Subject] = {}
    first_line: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            problems.append(f"line {line} has {len(cells)} cells, the header has {len(header)}")
            continue
        row = {name: unicodedata.normalize("NFC", cell) for name, cell in zip(header, cells, strict=True)}
        fault = _fault(row, unlabelled == "allow")
        if fault is None and row["id"] in first_line:
            fault = f"the id was used before, on line {first_line[row['id']]}"
        if fault is None and row["id"] not in store.rows:
            fault = f"the feature store {store.folder} does not hold this subject; prepare the cohort again"
        if fault is not None:
            problems.append(f"line {line} (id '{row['id']}'): {fault}")
            continue
        first_line[row["id"]] = line
        subjects[row["id"]] = _subject(row)
    require_good_rows(path, problems, len(rows))
    if not subjects:
        raise DataError(f"{path} has a header but no rows; expected at least one subject. Prepare the cohort again.")
    return Cohort(path, tuple(subjects.values()), store)


def write_cohort(folder: str | os.PathLike[str], subjects: Sequence[Subject]) -> Path:
    """Write `folder/manifest.csv`, for a store that is in `folder/features`, and return its path.

    Raises:
        DataError: There are no subjects.
        ResourceError: The folder is not writable or the disk is full.
    """
    path = Path(folder) / MANIFEST_FILE
    if not subjects:
        raise DataError(f"There are no subjects to write to {path}; expected at least one.")
    extra = sorted({name for subject in subjects for name in subject.covariates} - set(COLUMNS))
    columns = [*COLUMNS, *extra]
    write_csv(path, [{**dict.fromkeys(columns, ""), **_values(subject)} for subject in subjects], columns)
    return path


def _values(subject: Subject) -> dict[str, str]:
    return {
        **subject.covariates,
        "id": subject.id,
        "group": subject.group,
        "site": subject.site,
        "split": subject.split,
        "label": "" if subject.label == UNLABELLED else str(subject.label),
    }


def _subject(row: Mapping[str, str]) -> Subject:
    return Subject(
        id=row["id"],
        group=known(row.get("group", "")) or row["id"],
        site=known(row.get("site", "")),
        label=int(row["label"]) if known(row["label"]) else UNLABELLED,
        split=known(row.get("split", "")),
        covariates={name: value for name, value in row.items() if name not in _OWN},
    )


def _fault(row: Mapping[str, str], unlabelled: bool) -> str | None:
    fault = id_fault(row["id"])
    if fault is not None:
        return fault
    label = known(row["label"])
    if label not in {"0", "1"} and (label or not unlabelled):
        return f"the label is '{row['label']}'; expected 1 (autism) or 0 (control)"
    sex = known(row.get("sex", ""))
    if sex not in {"", "M", "F"}:
        return f"the sex is '{sex}'; expected M, F or nothing"
    for name in _NUMBERS:
        text = known(row.get(name, ""))
        if text and not _is_number(text):
            return f"{name} is '{text}'; expected a number that is not negative, or nothing"
    return None


def _is_number(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value >= 0
