from __future__ import annotations

import math
from pathlib import Path

import pytest

from medformer.data.manifest import read_manifest
from medformer.errors import DataError
from medformer.evaluation.subgroups import UNKNOWN, splits
from medformer.evaluation.table import group_names
from medformer.missing import WORDS, is_missing, known

SPELLED = ("", " ", "NaN", "N/A", "None", "null", "Unknown", " na ")


@pytest.mark.parametrize("cell", [*SPELLED, None, math.nan, *sorted(WORDS)])
def test_what_is_missing(cell: object) -> None:
    assert known(cell) == "" and is_missing(cell)


@pytest.mark.parametrize("cell", ["0", 0, 0.0, "nano", "unknown-1", "no"])
def test_what_is_known(cell: object) -> None:
    assert known(cell) == str(cell) and not is_missing(cell)


@pytest.mark.parametrize("word", SPELLED)
def test_a_missing_group_is_no_group_wherever_it_is_read(tmp_path: Path, word: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(f"id,image,mask,group,site\na,a.png,,{word},{word}\nb,b.png,,{word},x\n", encoding="utf-8")
    with pytest.raises(DataError, match="group"):
        read_manifest(path)
    cases = read_manifest(path, ungrouped="each").cases
    assert [(case.group, case.site) for case in cases] == [("a", ""), ("b", "x")]
    rows = [{"id": name, "group": word, "site": site} for name, site in (("a", word), ("b", "x"))]
    assert group_names(rows) == ["case a", "case b"]
    assert list(splits(rows)["site"]) == ["x", UNKNOWN]
