"""Reading a CSV table that people edit: tolerant of spreadsheets' habits, and exact about what is wrong where."""

from __future__ import annotations

import csv
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medformer.data.problems import first_ten
from medformer.errors import DataError
from medformer.files import file_fault
from medformer.names import id_fault

Record = TypeVar("Record")


@dataclass(frozen=True)
class TableForm:
    """What a table is expected to be, for the messages.

    Attributes:
        what: Such as "a CSV manifest".
        origin: A sentence that says where one comes from.
        columns: Its usual columns.
        required: Those that must be there.
        per_row: What a row stands for, such as "case".
    """

    what: str
    origin: str
    columns: tuple[str, ...]
    required: tuple[str, ...]
    per_row: str


def read_table(path: Path, form: TableForm) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the non-blank rows with their line numbers, cells stripped; rows may be ragged.

    UTF-8 and commas (tabs where the name ends in .tsv); a byte-order mark and either kind of line end are tolerated.

    Raises:
        DataError: The file is missing, unreadable or no such table, or a column is missing, unnamed or doubled.
    """
    header, rows = read_cells(path, form)
    missing = [name for name in form.required if name not in header]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}; found {', '.join(header)}, "
            f"expected {', '.join(form.columns)} (only {' and '.join(form.required)} are required)."
            + separator_hint(header)
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled or "" in header:
        what = f"names {', '.join(doubled)} more than once" if doubled else "has a column without a name"
        raise DataError(f"{path} {what}; expected every column to have its own name. Rename or remove it.")
    return header, rows


def separator_hint(header: Sequence[str]) -> str:
    """A sentence about a table whose header is a single cell."""
    if len(header) > 1:
        return ""
    return (
        " The columns seem to be separated by semicolons or tabs: save the file with commas, and decimals with points."
    )


def read_cells(path: Path, form: TableForm) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """As `read_table`, without a look at the columns.

    Raises:
        DataError: The file is missing, unreadable or no such table.
    """
    fault = file_fault(path)
    if fault == "is a folder":
        inside = path / "manifest.csv"
        fault += f" that holds {inside.name}: give {inside}" if inside.is_file() else ""
    if fault:
        raise DataError(f"{path} {fault}; expected {form.what}. {form.origin}")
    line = 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            table = []
            for cells in reader:
                line = reader.line_num
                table.append((line, [cell.strip() for cell in cells]))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected {form.what}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8.") from None
    except csv.Error as error:
        what = str(error)
        if "field larger" in what:
            what = f"a cell is longer than {csv.field_size_limit():,} characters; is a quotation mark missing?"
        raise DataError(
            f"{path} is not a well-formed CSV file (after line {line}: {what}); save it again as CSV UTF-8."
        ) from None
    table = [(line, cells) for line, cells in table if any(cells)]
    if not table:
        raise DataError(
            f"{path} is empty; expected a header with {', '.join(form.columns)} and one row per {form.per_row}."
        )
    return table[0][1], table[1:]


def read_records(
    path: Path,
    form: TableForm,
    fault: Callable[[Mapping[str, str]], str | None],
    make: Callable[[Mapping[str, str]], Record],
    *,
    verbatim: Callable[[str], bool] = lambda column: False,
) -> list[Record]:
    """Read a table of records that each have an `id` of their own.

    Cells are brought to Unicode NFC, so that equal names are equal.

    Args:
        path: The file.
        form: What it is expected to be.
        fault: What is wrong with a row (cells by column) whose id is well formed; None when nothing is.
        make: The record of a row without fault.
        verbatim: Which columns are left as they are, such as names of files, which the file system compares by bytes.

    Raises:
        DataError: See `read_table`; or a row is ragged, an id is empty, unsafe or used twice, a row has a fault, or
            there are no rows. All bad rows are counted, and the first ten are named.
    """
    header, rows = read_table(path, form)
    problems: list[str] = []
    records: list[Record] = []
    first_line: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            problems.append(f"line {line} has {len(cells)} cells, the header has {len(header)}")
            continue
        row = {
            name: cell if verbatim(name) else unicodedata.normalize("NFC", cell)
            for name, cell in zip(header, cells, strict=True)
        }
        identifier = row["id"]
        wrong = id_fault(identifier) or fault(row)
        if wrong is None and identifier in first_line:
            wrong = f"the id was used before, on line {first_line[identifier]}"
        if wrong is not None:
            problems.append(f"line {line} (id '{identifier}'): {wrong}")
            continue
        first_line[identifier] = line
        records.append(make(row))
    require_good_rows(path, problems, len(rows))
    if not records:
        raise DataError(f"{path} has a header but no rows; expected at least one {form.per_row}. {form.origin}")
    return records


def is_amount(text: str) -> bool:
    """Whether a cell holds a finite number that is not negative, such as an age."""
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


def require_good_rows(path: Path, problems: Sequence[str], rows: int) -> None:
    """Refuse a table with bad rows.

    Raises:
        DataError: There are some; they are counted, and the first ten named.
    """
    if problems:
        raise DataError(f"{path} has {len(problems)} bad rows of {rows}; correct them:{first_ten(problems)}")
