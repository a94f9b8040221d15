from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path

import pytest
import torch

from medformer import files
from medformer.errors import ResourceError, write_advice
from medformer.tensor_file import write_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_creates_folders_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    files.write_text(path, "grün")
    assert path.read_text("utf-8") == "grün"
    assert names(path.parent) == ["c.txt"]


def test_the_temporary_file_keeps_the_suffix_and_the_folder(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "mask.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    files.write_json(path, {"dice": 0.5})
    before = path.read_bytes()

    with pytest.raises(RuntimeError, match="half way"), files.atomic_path(path) as temporary:
        temporary.write_text("{")
        raise RuntimeError("half way")
    assert path.read_bytes() == before
    assert names(tmp_path) == ["metrics.json"]


def test_a_full_disk_is_a_resource_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "oof.csv"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"oof\.csv: No space left on device"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["oof.csv"]


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="Check that every folder of the path is one"):
        files.write_text(tmp_path / "file" / "below.txt", "x")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_results_are_readable_by_others_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "text", "")
        write_tensors(tmp_path / "tensors", {"a": torch.zeros(1)}, {})
        for given in (0o600, 0o666):
            # A writer that replaces the temporary file by one of its own.
            with files.atomic_path(tmp_path / f"own {given}") as temporary:
                temporary.with_name("own").touch()
                temporary.with_name("own").chmod(given)
                temporary.with_name("own").rename(temporary)
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(found) == 4 and set(found.values()) == {mode}, found


def test_json_is_strict(tmp_path: Path) -> None:
    files.write_json(
        tmp_path / "x.json", {"nan": math.nan, "list": (1, math.inf), "path": tmp_path, 3: {"b": 1, "a": 2}}
    )
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {"nan": None, "list": [1, None], "path": str(tmp_path), "3": {"b": 1, "a": 2}}
    assert files.read_json(tmp_path / "x.json") == json.loads(text)


def test_csv_floats_round_trip_exactly(tmp_path: Path) -> None:
    rows = [{"id": "a,b", "dice": 0.1 + 0.2}, {"id": 'quote "x"', "dice": 1e-300}]
    files.write_csv(tmp_path / "x.csv", rows, ["id", "dice"])
    read = files.read_csv(tmp_path / "x.csv")
    assert [row["id"] for row in read] == ["a,b", 'quote "x"']
    assert [float(row["dice"]) for row in read] == [0.1 + 0.2, 1e-300]
    assert b"\r" not in (tmp_path / "x.csv").read_bytes()


def test_a_column_nobody_asked_for_is_not_dropped_silently(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extra"):
        files.write_csv(tmp_path / "x.csv", [{"id": 1, "extra": 2}], ["id"])


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfid\n1\n")
    assert files.read_csv(tmp_path / "x.csv") == [{"id": "1"}]


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_digest_ignores_the_order_of_keys_but_not_of_lists() -> None:
    assert files.digest({"a": 1, "b": [1, 2]}) == files.digest({"b": [1, 2], "a": 1})
    assert files.digest([1, 2]) != files.digest([2, 1])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "named pipe"), (Path("/dev/zero"), "device"), (tmp_path, "folder")):
        with pytest.raises(OSError, match=words):
            files.sha256(path)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "Choose a folder that you may write to"),
        (errno.ENOENT, "Check that every folder of the path is one"),
        (errno.ENAMETOOLONG, "Choose another name"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_the_advice_follows_what_went_wrong(number: int, advice: str) -> None:
    assert write_advice(OSError(number, os.strerror(number))).startswith(advice)
