from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medformer.errors import CheckpointError, ConfigError, DamagedFileError, DataError
from medformer.files import read_csv, read_json
from medformer.records import Content, Names, read_record


class Shape(Content):
    size: int
    names: Names


@dataclass(frozen=True)
class Strict:
    size: int

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError("at least 2.")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is missing"),
        ("", "is not complete JSON"),
        ('{"size": 3', "is not complete JSON"),
        (DEEP, "nested too deeply"),
        ("[]", "expected keys and values"),
        ("{}", "'size' is missing"),
        ('{"size": "many"}', "'size' is 'many', expected a valid integer"),
        ('{"size": NaN}', "expected finite numbers"),
        ('{"size": 1e999}', "expected finite numbers"),
        ('{"size": 3, "names": [1]}', "'names.0' is 1, expected a valid string"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_and_the_advice(
    tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "shape.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_record(path, Shape, "Train again.", error=CheckpointError)
    message = str(caught.value)
    assert message.startswith(str(path)) and words in message and message.endswith("Train again.")


def test_a_file_may_hold_more_and_lack_parts(tmp_path: Path) -> None:
    path = tmp_path / "shape.json"
    path.write_text('{"size": 3, "more": {"a": null}}')
    read = read_record(path, Shape, "")
    assert (read.size, read.names) == (3, [])
    assert read.plain == {"size": 3, "more": {"a": None}}


def test_what_a_dataclass_refuses_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "strict.json"
    path.write_text('{"size": 1}')
    with pytest.raises(DataError, match=r"strict.json is damaged: at least 2. Again."):
        read_record(path, Strict, "Again.")


@pytest.mark.parametrize("content", [b'"\xff"', DEEP.encode(), b"{"])
def test_json_that_cannot_be_read_is_both_kinds_of_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"file\.json") as caught:
        read_json(path)
    assert isinstance(caught.value, ValueError) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    "content", [b"a,b\n1," + b"2" * 200_000 + b"\n", b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,b\n\xff,2\n"]
)
def test_a_table_that_cannot_be_read_names_its_file(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"table\.csv"):
        read_csv(path)
