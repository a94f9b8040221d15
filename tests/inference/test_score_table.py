from __future__ import annotations

from pathlib import Path

import pytest

from medformer.errors import DataError
from medformer.files import read_csv, write_csv
from medformer.inference.score_table import FILE, add_curves, write_score_table

ROWS = [
    {"id": f"f{case}", "repeat": repeat, "dice": 0.5, "e_curve": f"0.1;0.{case}{repeat}"}
    for case in range(2)
    for repeat in range(2)
]


def test_a_table_holds_no_curve_and_both_files_give_the_rows_back(tmp_path: Path) -> None:
    path = tmp_path / "oof.csv"
    assert write_score_table(path, ROWS, list(ROWS[0])) == [path, tmp_path / FILE]
    rows = read_csv(path)
    assert list(rows[0]) == ["id", "repeat", "dice"]
    assert max(map(len, path.read_text().splitlines())) < 20
    assert list(read_csv(tmp_path / FILE)[0]) == ["id", "repeat", "e_0", "e_1"]
    add_curves(path, rows)
    assert rows == [{name: str(cell) for name, cell in row.items()} for row in ROWS]


def test_curves_of_other_cases_are_refused(tmp_path: Path) -> None:
    write_score_table(tmp_path / "oof.csv", ROWS, list(ROWS[0]))
    write_csv(tmp_path / FILE, [{"id": "other", "repeat": 0, "e_0": 1}], ["id", "repeat", "e_0"])
    with pytest.raises(DataError, match="no curve of case 'f0'"):
        add_curves(tmp_path / "oof.csv", read_csv(tmp_path / "oof.csv"))


def test_a_table_without_curves_stays_one_file(tmp_path: Path) -> None:
    path = tmp_path / "oof.csv"
    assert write_score_table(path, [{"id": "a", "dice": 1}], ["id", "dice"]) == [path]
    rows = read_csv(path)
    add_curves(path, rows)
    assert rows == [{"id": "a", "dice": "1"}] and [file.name for file in tmp_path.iterdir()] == ["oof.csv"]
