"""The phenotypic table of ABIDE, and tables like it.

Columns are found by name, whatever the case and whether or not spaces surround it:

* `SUB_ID` (or another of `medformer.data.people.PERSON_COLUMNS`, such as `participant_id` or `id`): the person.
* `FILE_ID`: the scan, as files are called; `no_filename` where there is none. Without this column it is the person's.
* `DX_GROUP`: 1 autism, 2 control; or `label`, `dx` or `diagnosis`: 1 positive, 0 negative; or words (see `diagnosis`).
* `SITE_ID` (`site`), `AGE_AT_SCAN` (`age`, years), `SEX` (1 or M, 2 or F), `func_mean_fd` (`mean_fd`, mm), `FIQ`.

`-9999` and the usual words for a missing value mean not known.

A scan is usable when its quality control passed as nilearn's `fetch_abide_pcp(quality_checked=True)` demands: `OK` by
rater 1 and by rater 3 for both scans, and `OK` or `maybe` by rater 2 for both. Of ABIDE I, 871 scans are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medformer.data.cases import Case
from medformer.data.connectomes.read.diagnosis import Coding, read_coding
from medformer.data.connectomes.read.source import Candidate
from medformer.data.people import PERSON_COLUMNS, column_name
from medformer.data.problems import Problem
from medformer.data.tables import TableForm, is_amount, read_cells, require_good_rows, separator_hint
from medformer.errors import DataError
from medformer.missing import known
from medformer.names import id_fault

_TABLE = TableForm(
    what="a phenotypic table (CSV)",
    origin="ABIDE's is called Phenotypic_V1_0b_preprocessed1.csv.",
    columns=("SUB_ID", "FILE_ID", "SITE_ID", "DX_GROUP", "AGE_AT_SCAN", "SEX", "func_mean_fd"),
    required=("SUB_ID", "DX_GROUP"),
    per_row="subject",
)
_ALIASES = {
    "person": PERSON_COLUMNS,
    "file": ("file_id",),
    "site": ("site_id", "site"),
    "dx_group": ("dx_group",),
    "label": ("label", "dx", "diagnosis"),
    "age": ("age_at_scan", "age"),
    "sex": ("sex", "gender"),
    "mean_fd": ("func_mean_fd", "mean_fd"),
    "fiq": ("fiq",),
}
_RATERS = {
    "qc_rater_1": {"ok"},
    "qc_anat_rater_2": {"ok", "maybe"},
    "qc_func_rater_2": {"ok", "maybe"},
    "qc_anat_rater_3": {"ok"},
    "qc_func_rater_3": {"ok"},
}
# Of a column of sex, more than this share that is not understood is another coding, not some slips of the pen.
_MOST_UNKNOWN_SEX = 0.1
# BIDS names a scan by its person and then by session, task, run: sub-01_ses-2 is a scan of sub-01.
_BIDS_PERSON = re.compile(r"(sub-[^_]+)_.+")
_SEXES = {"": "", "1": "M", "2": "F", "m": "M", "f": "F", "male": "M", "female": "F"}


@dataclass(frozen=True)
class Phenotype:
    """A table that was read; without values, what is known where there is no table.

    Attributes:
        candidates: Rows that name a file and make sense, in the file's order; ids are the names of the files.
        problems: All other rows.
        names_files: Whether there is a column for the files' names, so that ids are those of scans, not of people.
        label_names: What the table calls class 1 and class 0.
    """

    candidates: tuple[Candidate, ...] = ()
    problems: tuple[Problem, ...] = ()
    names_files: bool = False
    label_names: Mapping[int, str] = field(default_factory=dict)


def is_phenotype(path: Path) -> bool:
    """Whether a file is called as a phenotypic table is: `*phenotyp*` or `participants`, `.csv` or `.tsv`."""
    stem = path.stem.lower()
    return path.suffix in {".csv", ".tsv"} and ("phenotyp" in stem or stem == "participants")


def find_phenotype(folder: Path, *, required: bool = True) -> Path | None:
    """The phenotypic table of a folder (see `is_phenotype`), or of a folder near it.

    Raises:
        DataError: There is none although it is required, or there are several.
    """
    places = [folder, folder / "ABIDE_pcp", folder / "Outputs", *list(folder.absolute().parents)[:3]]
    for place in places:
        found = sorted(path for path in place.glob("*.[ct]sv") if is_phenotype(path))
        if len(found) > 1:
            raise DataError(
                f"{place} holds {len(found)} phenotypic tables ({', '.join(path.name for path in found)}); "
                "keep one of them there, or say which with `medformer abide prepare --phenotype`."
            )
        if found:
            return found[0]
    if not required:
        return None
    raise DataError(
        f"{folder} holds no phenotypic table; expected a CSV file whose name begins with 'phenotypic', or "
        f"participants.tsv, with a column for the person ({', '.join(PERSON_COLUMNS)}) and one for the diagnosis "
        f"({', '.join((*_ALIASES['dx_group'], *_ALIASES['label']))}). Put it there, or give any CSV file with "
        "--phenotype."
    )


def read_phenotype(path: Path, *, positive: str | None = None, unlabelled: bool = False) -> Phenotype:
    """Read a table.

    Args:
        path: The file.
        positive: The diagnosis of the positive class, where the column has words or numbers of its own.
        unlabelled: Whether the diagnosis may be missing or not known.

    Raises:
        DataError: It is missing or no such table, lacks the person or the diagnosis, has no rows or ragged ones, or its
            diagnoses are not two known classes.
    """
    header, rows = read_cells(path, _TABLE)
    places = _places(path, header, unlabelled)
    ragged = [
        f"line {n} has {len(cells)} cells, the header has {len(header)}"
        for n, cells in rows
        if len(cells) != len(header)
    ]
    require_good_rows(path, ragged, len(rows))
    if not rows and not unlabelled:
        raise DataError(f"{path} has a header but no rows; expected one row per subject.")
    candidates: list[Candidate] = []
    problems: list[Problem] = []
    table = [{name: value(cells[place]) for name, place in places.items()} for _, cells in rows]
    coding = coding_of(table, str(path), positive=positive, unlabelled=unlabelled)
    require_sexes(table, str(path))
    for row in table:
        found = as_candidate(row, str(path), coding, unlabelled=unlabelled)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            candidates.append(found)
    kept, conflicts = without_conflicts(candidates, str(path), unlabelled=unlabelled)
    return Phenotype(tuple(kept), (*problems, *conflicts), "file" in places, coding.names)


def coding_of(
    table: Sequence[Mapping[str, str]], path: str, *, positive: str | None = None, unlabelled: bool = False
) -> Coding:
    """What the diagnoses of a table mean; see `read_coding`."""
    column = "dx_group" if any("dx_group" in row for row in table) else "label"
    cells = [row.get(column, "") for row in table]
    return read_coding(column, cells, path, positive=positive, unlabelled=unlabelled)


def require_sexes(table: Sequence[Mapping[str, str]], path: str) -> None:
    """Refuse a column of sex in another coding, of which the rows that are not understood would be left out.

    Raises:
        DataError: It holds 0, or more than a few other values.
    """
    counts = Counter(row["sex"] for row in table if row.get("sex"))
    odd = {text: count for text, count in counts.items() if _sex(text) is None}
    many = sum(odd.values()) > max(1, _MOST_UNKNOWN_SEX * counts.total())
    if many or any(text.removesuffix(".0") == "0" for text in odd):
        found = ", ".join(f"'{text}' ({count})" for text, count in counts.most_common(6))
        raise DataError(
            f"{path}: the column of sex holds {found}; expected 1 or M (male), 2 or F (female), or nothing. Leaving "
            "the others out would choose subjects by their sex. Write M and F, and clear what is not known."
        )


def _sex(text: str) -> str | None:
    return _SEXES.get(text.lower().removesuffix(".0"))


def without_conflicts(
    candidates: Sequence[Candidate], path: str, *, unlabelled: bool = False
) -> tuple[list[Candidate], list[Problem]]:
    """Leave out all rows that contradict each other, because the table does not show which one is right.

    Args:
        candidates: The rows.
        path: The table, for problems.
        unlabelled: Whether only a file with several rows counts as a contradiction.

    Returns:
        The other rows, and one problem for each row that is left out: the same id twice, or one person with two
        diagnoses or at two sites.
    """
    cases = [candidate.subject for candidate in candidates]
    rows = Counter(case.id for case in cases)
    problems = {
        place: Problem(case.id, path, "doubled-row", f"the file {case.id} has {rows[case.id]} rows; keep one")
        for place, case in enumerate(cases)
        if rows[case.id] > 1
    }
    for place, problem in () if unlabelled else contradictions(cases, path, "correct one"):
        problems.setdefault(place, problem)
    kept = [candidate for place, candidate in enumerate(candidates) if place not in problems]
    return kept, [problems[place] for place in sorted(problems)]


def contradictions(cases: Sequence[Case], path: str, advice: str) -> Iterator[tuple[int, Problem]]:
    """Find persons with two labels or at two sites; give each of their rows by position, with its problem."""
    people: dict[str, list[int]] = defaultdict(list)
    for place, case in enumerate(cases):
        people[case.group].append(place)
    labels = ["none" if case.label is None else str(case.label) for case in cases]
    sites = [case.site or "none" for case in cases]
    for reason, values, text in (("label-conflict", labels, "has the labels"), ("two-sites", sites, "is listed at")):
        for person, places in people.items():
            different = dict.fromkeys(values[place] for place in places)
            if len(different) > 1:
                detail = f"person {person} {text} {' and '.join(different)}; {advice}"
                yield from ((place, Problem(cases[place].id, path, reason, detail)) for place in places)


def as_candidate(row: Mapping[str, str], path: str, coding: Coding, *, unlabelled: bool = False) -> Candidate | Problem:
    """Make one row a candidate, or say why it cannot be one.

    Args:
        row: `person`, `dx_group` or `label`, and what is known of `file`, `site`, `age`, `sex`, `mean_fd`, `fiq` and
            the raters' columns; texts, empty for unknown.
        path: The table, for problems.
        coding: What the diagnoses mean.
        unlabelled: Whether the label may be missing or not known.
    """
    # ABIDE's files pad a person's number to 7 digits, its table does not.
    number = row["person"].removesuffix(".0")
    group = number.zfill(7) if number.isdigit() else _BIDS_PERSON.sub(r"\1", row["person"])
    name = row.get("file", row["person"])
    if name == "no_filename" or not name:
        return Problem(group, path, "no-file")
    fault = id_fault(name)
    if fault is not None:
        return Problem(name, path, "bad-value", fault)
    text = row["dx_group"] if "dx_group" in row else row.get("label", "")
    label = coding.label(text)
    if label is None and not unlabelled:
        return Problem(name, path, "unknown-label", f"the diagnosis is '{text}'; expected {coding.expected}")
    covariates = {}
    for column in ("age", "mean_fd", "fiq"):
        text = row.get(column, "")
        if text and not is_amount(text):
            return Problem(name, path, "bad-value", f"{column} is '{text}'; expected a number or nothing")
        covariates[column] = text
    sex = _sex(row.get("sex", ""))
    if sex is None:
        return Problem(name, path, "bad-value", f"sex is '{row['sex']}'; expected 1, 2, M, F or nothing")
    covariates["sex"] = sex
    raters = [row[rater].lower() in passed for rater, passed in _RATERS.items() if rater in row]
    usable = all(raters) if len(raters) == len(_RATERS) else None
    case = Case(name, group=group or name, site=row.get("site", ""), label=label, covariates=covariates)
    return Candidate(case, usable)


def _places(path: Path, header: Sequence[str], unlabelled: bool) -> dict[str, int]:
    names = [column_name(name) for name in header]
    places = {}
    for column, aliases in {**_ALIASES, **{rater: (rater,) for rater in _RATERS}}.items():
        found = next((alias for alias in aliases if alias in names), None)
        if found is None:
            continue
        if names.count(found) > 1:
            raise DataError(f"{path} names the column {found} more than once; rename or remove one of them.")
        places[column] = names.index(found)
    missing = [
        text
        for text, columns in {
            f"SUB_ID (or {', '.join(PERSON_COLUMNS[1:])})": ("person", "file"),
            "DX_GROUP (1 autism, 2 control) or label (1, 0)": ("dx_group", "label"),
        }.items()
        if not set(columns) & set(places) and not (unlabelled and "label" in columns)
    ]
    if missing:
        raise DataError(
            f"{path} lacks {' and '.join(missing)}; found {', '.join(filter(None, header))}. "
            "Give the cohort's phenotypic table." + separator_hint(header)
        )
    places.setdefault("person", places.get("file", 0))
    return places


def value(cell: str) -> str:
    """A cell's text, empty where it means not known."""
    text = known(cell)
    return "" if text in {"-9999", "-9999.0"} else text
