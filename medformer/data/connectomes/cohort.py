"""The manifest of a cohort: its subjects, and what is known of each one besides the connectome.

Columns: `id, group, site, split, label, age, sex, mean_fd`, then free covariates. Only `id` and `label` must be there.

* `group` is the person: scans of one person share it. It is the id where the column is empty.
* `label` is 1 for the positive class, such as autism, and 0 for the other; `preparation.json` says what the two are
  called. It may be empty only where subjects without a label are asked for, as in pretraining.
* `age` is in years, `sex` M or F, `mean_fd` the mean framewise displacement in mm; each may be empty.

The feature store lies beside it, in `features/`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

from medformer.data.cases import LABEL, Case
from medformer.data.connectomes.store import FeatureStore, open_store
from medformer.data.manifest import Manifest, case_values
from medformer.data.people import match_people, plain
from medformer.data.tables import TableForm, is_amount, read_records
from medformer.errors import DataError
from medformer.files import digest, write_csv
from medformer.missing import known
from medformer.records import read_record

MANIFEST_FILE = "manifest.csv"
FEATURES = "features"
PREPARATION_FILE = "preparation.json"
LABEL_NAMES = "label_names"
"""Key of `preparation.json`: what the cohort calls class 1 and class 0."""

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
class Cohort(Manifest):
    """The cases of one manifest, one scan of one person each, and the store that holds their connectomes.

    Attributes:
        store: May hold more cases than the manifest, never fewer.
    """

    store: FeatureStore

    @cached_property
    def rows(self) -> list[int]:
        """Row of each case in the store's blocks."""
        return [self.store.rows[case.id] for case in self.cases]

    @property
    def smallest_atlas(self) -> str:
        """The atlas with the fewest regions, by which brains are compared."""
        return min(self.store.atlases, key=lambda name: self.store.atlases[name].regions)

    @cached_property
    def label_names(self) -> dict[int, str]:
        """What class 1 and class 0 are called, as the table said from which the cohort was prepared."""
        path = self.path.parent / PREPARATION_FILE
        content = read_record(path, dict[str, Any], "Prepare the cohort again.") if path.is_file() else {}
        noted = content.get(LABEL_NAMES)
        names = noted if isinstance(noted, dict) else {}
        return {1: str(names.get("1", "positive")), 0: str(names.get("0", "negative"))}

    def digest(self) -> str:
        """SHA-256 over every column and every stored number, so that moving the folder does not change it."""
        return digest([[_values(case) for case in self.cases], self.store.digest()])


def read_cohort(path: str | os.PathLike[str], *, unlabelled: Literal["error", "allow"] = "error") -> Cohort:
    """Read and validate a cohort.

    Args:
        path: The manifest, or the folder it is in.
        unlabelled: Whether a case without a label is refused.

    Raises:
        DataError: The manifest is missing or no such table, a row is ragged, an id is empty, doubled, unsafe or not in
            the store, also without zeros in front, a label, age, sex or mean_fd makes no sense, or there are no rows.
            All bad rows are counted and the first ten named. Or the store is missing or damaged.
    """
    path = Path(path)
    path = path / MANIFEST_FILE if path.is_dir() else path
    # Opened after the manifest, which is named first where both are missing.
    store = cache(partial(open_store, path.parent / FEATURES))
    stored = cache(lambda: {plain(name) for name in store().ids})
    cases = read_records(path, _TABLE, lambda row: _fault(row, unlabelled == "allow", store(), stored()), _case)
    # A spreadsheet that saved the manifest may have dropped the zeros of ids.
    names = match_people(store().ids, [case.id for case in cases], "rows of the manifest", whole=True)
    cases = [replace(case, id=names[case.id]) for case in cases]
    return Cohort(path, Path(os.path.abspath(path.parent)), tuple(cases), store())


def write_cohort(folder: str | os.PathLike[str], cases: Sequence[Case]) -> Path:
    """Write `folder/manifest.csv`, for a store that is in `folder/features`, and return its path.

    Raises:
        DataError: There are no cases.
        ResourceError: The folder is not writable or the disk is full.
    """
    path = Path(folder) / MANIFEST_FILE
    if not cases:
        raise DataError(f"There are no subjects to write to {path}; expected at least one.")
    extra = sorted({name for case in cases for name in case.covariates} - set(COLUMNS))
    columns = [*COLUMNS, *extra]
    write_csv(path, [{**dict.fromkeys(columns, ""), **_values(case)} for case in cases], columns)
    return path


def _values(case: Case) -> dict[str, str]:
    return {**case_values(case), LABEL: "" if case.label is None else str(case.label)}


def _case(row: Mapping[str, str]) -> Case:
    return Case(
        id=row["id"],
        group=known(row.get("group", "")) or row["id"],
        site=known(row.get("site", "")),
        label=int(row[LABEL]) if known(row[LABEL]) else None,
        split=known(row.get("split", "")),
        covariates={name: value for name, value in row.items() if name not in _OWN},
    )


def _fault(row: Mapping[str, str], unlabelled: bool, store: FeatureStore, stored: Collection[str]) -> str | None:
    label = known(row["label"])
    if label not in {"0", "1"} and (label or not unlabelled):
        return f"the label is '{row['label']}'; expected 1 (positive) or 0 (negative)"
    sex = known(row.get("sex", ""))
    if sex not in {"", "M", "F"}:
        return f"the sex is '{sex}'; expected M, F or nothing"
    for name in _NUMBERS:
        text = known(row.get(name, ""))
        if text and not is_amount(text):
            return f"{name} is '{text}'; expected a number that is not negative, or nothing"
    if row["id"] not in store.rows and plain(row["id"]) not in stored:
        return f"the feature store {store.folder} does not hold this subject; prepare the cohort again"
    return None
