from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medformer.crossval.run.collect import read_oof
from medformer.evaluation.subgroups import AGES, age_bin, covariate_parts, splits
from medformer.files import read_csv, write_csv


def sizes(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    found = splits(rows)
    for parts in found.values():
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(rows)))
    return {column: {name: len(part) for name, part in parts.items()} for column, parts in found.items()}


@pytest.mark.parametrize(
    ("years", "name"),
    [
        (0, "under 12"),
        (11.99, "under 12"),
        (12, "12-17"),
        (17.9, "12-17"),
        (17.9999999, "12-17"),
        (18, "18-29"),
        (30, "30-39"),
        (79, "70-79"),
        (80, "80 or older"),
        (104, "80 or older"),
        (-999, "unknown"),
        (999, "unknown"),
        (float("nan"), "unknown"),
        (float("inf"), "unknown"),
    ],
)
def test_ages_fall_in_the_stated_bins(years: float, name: str) -> None:
    assert age_bin(years) == name
    assert list(sizes([{"age": str(years)}, {"age": 50}])["age"]).count(name) == 1


def test_bins_cover_every_year_once_and_come_in_order() -> None:
    names = [age_bin(years) for years in range(121)]
    assert list(dict.fromkeys(names)) == list(AGES)
    assert list(sizes([{"age": years} for years in range(120, -1, -1)])["age"]) == list(AGES)


def test_ages_that_are_bins_already_are_taken_as_they_are() -> None:
    assert sizes([{"age": "<40"}, {"age": "65"}, {"age": ""}])["age"] == {"65": 1, "<40": 1, "unknown": 1}


def test_sexes_are_spelled_out_and_codes_kept() -> None:
    words = [{"sex": word} for word in ("M", "male", " f ", "Female", "n/a", "", None)]
    assert sizes(words)["sex"] == {"female": 2, "male": 2, "unknown": 3}
    assert sizes([{"sex": code} for code in (1, "1", 1.0, 2, float("nan"))])["sex"] == {"1": 3, "2": 1, "unknown": 1}


def test_empty_cells_make_a_part_and_empty_columns_none() -> None:
    rows = [{"site": site, "sex": "", "age": None} for site in ("b", "", "a", "b")]
    assert sizes(rows) == {"site": {"a": 1, "b": 2, "unknown": 1}}


def test_one_repeat_is_no_split_and_a_half_known_fold_is_none() -> None:
    rows = [{"repeat": 0, "fold": fold} for fold in (10, 2, 0)]
    assert sizes(rows) == {"fold": {"0": 1, "2": 1, "10": 1}}
    assert sizes([{"repeat": 0, "fold": ""}, {"repeat": 1, "fold": 0}]) == {"repeat": {"0": 1, "1": 1}}


def test_a_site_is_never_taken_for_a_number() -> None:
    assert sizes([{"site": "007"}, {"site": "7"}])["site"] == {"7": 1, "007": 1}


def test_a_file_gives_the_same_parts_as_memory(tmp_path: Path) -> None:
    rows = [
        {"id": str(k), "fold": k % 3, "repeat": k // 6, "site": "007", "sex": [1, ""][k == 4], "age": [33, ""][k == 2]}
        for k in range(12)
    ]
    write_csv(tmp_path / "oof.csv", rows, list(rows[0]))
    assert sizes(rows) == sizes(list(read_csv(tmp_path / "oof.csv"))) == sizes(read_oof(tmp_path / "oof.csv"))


def test_a_column_of_the_user_s_makes_categories_bins_and_a_part_of_what_is_not_known() -> None:
    scanners = covariate_parts(["GE", "", "Siemens", "GE", None])
    assert {name: list(rows) for name, rows in scanners.items()} == {"GE": [0, 3], "Siemens": [2], "unknown": [1, 4]}
    codes = covariate_parts(["10", "2.0", "2", "nan"])
    assert {name: list(rows) for name, rows in codes.items()} == {"2": [1, 2], "10": [0], "unknown": [3]}
    years = covariate_parts([*map(str, range(1, 13)), ""])
    assert {name: list(rows) for name, rows in years.items()} == {
        "up to 3.75": [0, 1, 2],
        "above 3.75, up to 6.5": [3, 4, 5],
        "above 6.5, up to 9.25": [6, 7, 8],
        "above 9.25": [9, 10, 11],
        "unknown": [12],
    }
    many_ties = covariate_parts(["0"] * 30 + [str(k) for k in range(1, 11)])
    assert sum(map(len, many_ties.values())) == 40 and len(many_ties["up to 0"]) == 30
