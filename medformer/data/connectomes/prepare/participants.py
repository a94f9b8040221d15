"""The participants of preprocessed scans: whose scan is whose, and the phenotypic table that is made of it.

Nobody is dropped: `prepare` lists a participant without a scan, and a scan without a participant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medformer.data.people import PERSON_COLUMNS, column_name, listed, match_people
from medformer.data.tables import TableForm, read_table, separator_hint
from medformer.errors import DataError
from medformer.files import write_csv
from medformer.imaging.bids import BoldScan

_PARTICIPANTS = TableForm(
    what="a table of participants (TSV)",
    origin="BIDS calls it participants.tsv.",
    columns=("participant_id", "dx_group", "age", "sex", "site"),
    required=(),
    per_row="participant",
)
_OURS = {"file_id", "func_mean_fd", *PERSON_COLUMNS}


@dataclass(frozen=True)
class People:
    """The participants of a table.

    Attributes:
        path: The table.
        rows: By id, as the table spells it.
        of: Id by the subject of a scan; absent for a scan of nobody.
    """

    path: Path
    rows: Mapping[str, Mapping[str, str]]
    of: Mapping[str, str]

    @property
    def without_scans(self) -> list[str]:
        """Ids of the participants without a scan."""
        scanned = set(self.of.values())
        return [name for name in self.rows if name not in scanned]


def read_participants(bids: Path, given: Path | None, scans: Sequence[BoldScan]) -> People | None:
    """Find each scan's participant; None where there is no table and none was named.

    Raises:
        DataError: It is no table of participants, lists one twice, or nobody in it was scanned.
    """
    usual = [place / "participants.tsv" for place in (bids, bids.absolute().parent)]
    path = given or next((table for table in usual if table.exists()), None)
    if path is None:
        return None
    header, rows = read_table(path, _PARTICIPANTS)
    names = {column_name(name): name for name in header}
    column = next((names[name] for name in PERSON_COLUMNS if name in names), None)
    if column is None:
        raise DataError(
            f"{path} lacks a column for the participant ({', '.join(PERSON_COLUMNS)}); found {', '.join(header)}."
            + separator_hint(header)
        )
    people = [dict(zip(header, cells, strict=False)) for _, cells in rows]
    counts = Counter(person.get(column, "") for person in people)
    doubled = [name for name, count in counts.items() if count > 1]
    if doubled:
        raise DataError(f"{path} lists {listed(doubled)} more than once; expected one row per participant.")
    subjects = list(dict.fromkeys(scan.subject for scan in scans))
    of = match_people(list(counts), subjects, "scans", whole=True)
    if not of:
        raise DataError(
            f"{path} lists none of the scans' subjects: it has {listed(counts)}, the scans are of {listed(subjects)}. "
            "Correct the ids, or name the right table with --participants."
        )
    return People(path, {person.get(column, ""): person for person in people}, of)


def write_phenotype(out: Path, scans: Sequence[BoldScan], rows: Sequence[Mapping[str, Any]], people: People) -> None:
    """Write a row for each scan that was kept, and for each participant without one, so that `prepare` lists them."""
    kept = [
        (scan, row) for scan, row in zip(scans, rows, strict=True) if not row["reason"] and scan.subject in people.of
    ]
    scanned = {people.of[scan.subject] for scan, _ in kept}
    table = [
        {
            **people.rows[people.of[scan.subject]],
            "FILE_ID": scan.id,
            "SUB_ID": scan.subject,
            "func_mean_fd": row["mean_fd"],
        }
        for scan, row in kept
    ]
    table += [
        {**person, "FILE_ID": "no_filename", "SUB_ID": name, "func_mean_fd": ""}
        for name, person in people.rows.items()
        if name not in scanned
    ]
    others = dict.fromkeys(name for person in people.rows.values() for name in person)
    columns = ["FILE_ID", "SUB_ID", "func_mean_fd", *(name for name in others if column_name(name) not in _OURS)]
    write_csv(out / "Phenotypic.csv", [{name: row.get(name, "") for name in columns} for row in table], columns)
