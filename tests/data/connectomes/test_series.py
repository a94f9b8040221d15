"""A .1D file reads back whatever its header is like, and a damaged one is refused by the right name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.data.connectomes.read.files import read_series
from medformer.data.connectomes.read.source import UnusableError

VALUES = np.array([[1.5, -2.0, 3e-5], [4.0, 5.25, -6.0]], np.float32)


def series(folder: Path, text: str | bytes) -> Path:
    path = folder / "NYU_1_rois_aal.1D"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("#2001\t#2002\t#2101\n1.5\t-2\t3e-5\n4\t5.25\t-6\n", ("2001", "2002", "2101")),
        ("#2001\t#2002\t#2101\r\n1.5\t-2\t3e-5\r\n4\t5.25\t-6\r\n", ("2001", "2002", "2101")),
        ("# 1 2 3\n1.5 -2 3e-5\n4 5.25 -6", ("1", "2", "3")),
        ("#1 #2 #3\n  1.5   -2  3e-5\n 4 5.25   -6\n\n", ("1", "2", "3")),
        ("# made by hand\n# 3 regions, 2 volumes\n#a\t#b\t#c\n1.5\t-2\t3e-5\n4\t5.25\t-6\n", ("a", "b", "c")),
        ("# made by hand, in a hurry\n1.5\t-2\t3e-5\n4\t5.25\t-6\n", None),
        ("1.5\t-2\t3e-5\n4\t5.25\t-6\n", None),
        ("1.5\t-2\t3e-5\t\n4\t5.25\t-6\t\n", None),
        ("left,right,both\n1.5,-2,3e-5\n4,5.25,-6\n", ("left", "right", "both")),
        ("\ufeff#1\t#2\t#3\n1.5\t-2\t3e-5\n4\t5.25\t-6\n", ("1", "2", "3")),
    ],
)
def test_header_variants(tmp_path: Path, text: str, numbers: tuple[str, ...] | None) -> None:
    found = read_series(series(tmp_path, text))
    np.testing.assert_array_equal(found.values, VALUES)
    assert found.values.dtype == np.float32
    assert found.numbers == numbers


@pytest.mark.parametrize(
    "head", ["\t#1\t#2\n", "index\t#1\t#2\n", "", "Unnamed: 0\t#1\t#2\n"], ids=["pandas", "named", "none", "unnamed"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_counts_the_time_points_is_no_region(tmp_path: Path, head: str, first: int) -> None:
    values = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    lines = [f"{first + n}\t{a:.9g}\t{b:.9g}" for n, (a, b) in enumerate(values)]
    found = read_series(series(tmp_path, head + "\n".join(lines) + "\n"))
    np.testing.assert_array_equal(found.values, values)
    assert found.numbers == (("1", "2") if head else None)


def test_what_is_no_number_in_the_file_stays_none(tmp_path: Path) -> None:
    found = read_series(series(tmp_path, "#1\t#2\t#3\n1\tnan\t2\n3\t\t4\n"))
    np.testing.assert_array_equal(np.isnan(found.values), [[False, True, False], [False, True, False]])


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("#1\t#2\t#3\n1\t2\t3\n4\t5", "truncated", "last line, line 3, has 2 numbers; the lines before have 3"),
        ("#1\t#2\t#3\n1\t2\t3\n4\t5\t-", "truncated", "line 3"),
        ("1\t2\t3\n4\t5\n6\t7\t8\n", "corrupt", "line 2, has 2 numbers"),
        ("1\t2\t3\n4\t5\t6\t7\n", "corrupt", "line 2, has 4 numbers"),
        ("1\t2\t3\n4\tfive\t6\n7\t8\t9\n", "corrupt", "line 2 holds something that is no number"),
        ("#1\t#2\t#3\n", "corrupt", "no numbers"),
        ("", "corrupt", "it is empty"),
        (b"\x80\x81\xff\x00", "corrupt", "not text"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str | bytes, reason: str, message: str) -> None:
    with pytest.raises(UnusableError, match=message) as caught:
        read_series(series(tmp_path, text))
    assert caught.value.reason == reason


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnusableError, match="it does not exist"):
        read_series(tmp_path / "none.1D")
