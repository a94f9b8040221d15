"""Every case is read once; what did not change is not opened again, and what changed is."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medformer.data import inventory as module
from medformer.data.cases import Case, image_hash
from medformer.data.inventory import Inventory, Record, duplicates, formulas, take_inventory
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.files import sha256


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    made = []
    for name in "abc":
        image, mask = tmp_path / f"{name}.txt", tmp_path / f"{name}.mask.txt"
        image.write_text(f"image {name}")
        mask.write_text(f"mask {name}")
        made.append(Case(name, image, mask))
    return made


class Describer:
    """Describes a case by its text, and keeps the ids it was called with."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, case: Case) -> Record:
        self.seen.append(case.id)
        content = case.image.read_bytes()
        assert case.mask is not None
        return Record(
            case.id,
            (Problem(case.id, str(case.image), "tiny", f"{len(content)} bytes"),),
            {"file": sha256(case.image), "mask": sha256(case.mask)},
            {"size": (len(content), float("nan")), "text": content.decode()},
            {"descriptor": np.frombuffer(content, np.uint8).astype(np.float32)},
        )


def plain(inventory: Inventory) -> list[object]:
    return [
        (
            key,
            record.id,
            record.problems,
            record.hashes,
            record.facts,
            {n: a.tolist() for n, a in record.arrays.items()},
        )
        for key, record in inventory.items()
    ]


def test_records_come_in_the_order_of_the_manifest(cases: list[Case]) -> None:
    inventory = take_inventory(cases, Describer(), workers=3)
    assert list(inventory) == ["a", "b", "c"]
    assert inventory["b"].facts == {"size": [7, None], "text": "image b"}
    assert [problem.case_id for problem in inventory.problems] == ["a", "b", "c"]
    assert list(inventory.arrays("descriptor")) == ["a", "b", "c"]


def test_nothing_unchanged_is_opened_again(cases: list[Case], tmp_path: Path, opened: list[str]) -> None:
    first = take_inventory(cases, Describer(), cache=tmp_path / "cache")
    counts = Counter(Path(path).name for path in opened)
    assert counts["a.txt"] == 2
    opened.clear()

    again = Describer()
    second = take_inventory(cases, again, cache=tmp_path / "cache")

    assert again.seen == []
    assert {Path(path).parent for path in opened if path.startswith(str(tmp_path))} == {tmp_path / "cache"}
    assert plain(first) == plain(second)
    assert second["a"].arrays["descriptor"].dtype == np.float32
    assert [path.suffix for path in sorted((tmp_path / "cache").iterdir())] == [".json", ".npz"]


@pytest.mark.parametrize("how", ["in place", "another file"])
def test_another_content_of_the_same_size_and_time_is_noticed(cases: list[Case], tmp_path: Path, how: str) -> None:
    take_inventory(cases, Describer(), cache=tmp_path / "cache")
    path = cases[1].image
    before = path.stat()
    if how == "another file":
        path.rename(tmp_path / "kept")
    path.write_text("image B")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    again = Describer()
    found = take_inventory(cases, again, cache=tmp_path / "cache")

    assert again.seen == ["b"]
    assert found["b"].facts["text"] == "image B"


def test_a_file_that_was_only_touched_is_hashed_once_and_not_described(
    cases: list[Case], tmp_path: Path, opened: list[str]
) -> None:
    take_inventory(cases, Describer(), cache=tmp_path / "cache")
    os.utime(cases[1].image, ns=(0, 0))
    again = Describer()
    opened.clear()
    for expected in ({"b.txt": 1, "b.mask.txt": 1}, {}):
        take_inventory(cases, again, cache=tmp_path / "cache")
        assert {Path(path).name: 1 for path in opened if path.endswith(".txt")} == expected
        opened.clear()
    assert again.seen == []


def test_a_changed_mask_or_expected_hash_and_a_file_that_is_gone(cases: list[Case], tmp_path: Path) -> None:
    take_inventory(cases, Describer(), cache=tmp_path / "cache")
    assert cases[0].mask is not None
    cases[0].mask.write_text("another mask")
    cases[1] = replace(cases[1], sha256="0" * 64)
    cases[2] = replace(cases[2], covariates={"age": "9"}, site="north")
    again = Describer()
    take_inventory(cases, again, cache=tmp_path / "cache")
    assert again.seen == ["a", "b"]
    cases[2].image.unlink()
    with pytest.raises(FileNotFoundError):
        take_inventory(cases, again, cache=tmp_path / "cache")


def test_a_renamed_case_keeps_its_record_under_the_new_id(cases: list[Case], tmp_path: Path) -> None:
    take_inventory(cases, Describer(), cache=tmp_path / "cache")
    again = Describer()
    found = take_inventory([replace(cases[0], id="new"), *cases[1:]], again, cache=tmp_path / "cache")
    assert again.seen == []
    assert found["new"].id == found["new"].problems[0].case_id == "new"


def test_two_cases_with_the_same_files(cases: list[Case], tmp_path: Path) -> None:
    twice = [cases[0], replace(cases[0], id="copy")]
    for _ in range(2):
        found = take_inventory(twice, Describer(), cache=tmp_path / "cache")
        assert [record.id for record in found.values()] == ["a", "copy"]


def test_each_of_several_settings_keeps_its_records(cases: list[Case], tmp_path: Path) -> None:
    again = Describer()
    for size in (1, 1, 2, 2, 1):
        take_inventory(cases, again, cache=tmp_path / "cache", settings={"size": size})
    assert again.seen == list("abcabc")
    assert len(list((tmp_path / "cache").iterdir())) == 4
    take_inventory(cases[:2], again, cache=tmp_path / "cache", settings={"size": 1})
    take_inventory(cases, again, cache=tmp_path / "cache", settings={"size": 1})
    assert again.seen == list("abcabcc")


def test_a_hash_that_the_manifest_now_expects_is_compared_without_reading(cases: list[Case], tmp_path: Path) -> None:
    again = Describer()
    first = take_inventory(cases, again, cache=tmp_path / "cache")
    expecting = [
        replace(case, sha256=first[case.id].hashes["file"], covariates={"mask_sha256": first[case.id].hashes["mask"]})
        for case in cases
    ]
    take_inventory(expecting, again, cache=tmp_path / "cache")
    assert again.seen == list("abc")
    expecting[1] = replace(expecting[1], covariates={"mask_sha256": "0" * 64})
    for _ in range(2):
        take_inventory(expecting, again, cache=tmp_path / "cache")
    assert again.seen == list("abcb")


@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
def test_an_interrupted_pass_continues_where_it_stopped(
    cases: list[Case], tmp_path: Path, save_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAVE_SECONDS", save_seconds)
    describe = Describer()

    def interrupted(case: Case) -> Record:
        if case.id == "c":
            raise KeyboardInterrupt
        return describe(case)

    with pytest.raises(KeyboardInterrupt):
        take_inventory(cases, interrupted, cache=tmp_path / "cache")
    assert describe.seen == ["a", "b"]
    assert len(list((tmp_path / "cache").glob("*.json"))) == (2 if save_seconds == 0.0 else 1)

    found = take_inventory(cases, describe, cache=tmp_path / "cache")
    assert describe.seen == ["a", "b", "c"]
    assert plain(found) == plain(take_inventory(cases, Describer()))
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "no json",
        "half json",
        "other json",
        "unknown reason",
        "no arrays",
        "half arrays",
        "changed arrays",
        "other arrays",
        "a folder",
    ],
)
def test_a_damaged_cache_is_made_again(cases: list[Case], tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    expected = plain(take_inventory(cases, Describer(), cache=cache))
    json, arrays = sorted(cache.iterdir())
    if damage == "no json":
        json.unlink()
    elif damage == "half json":
        json.write_bytes(json.read_bytes()[:200])
    elif damage == "other json":
        json.write_text("[1, 2]")
    elif damage == "unknown reason":
        json.write_text(json.read_text().replace('"tiny"', '"huge"'))
    elif damage == "no arrays":
        arrays.unlink()
    elif damage == "other arrays":
        with np.load(arrays) as stored:
            changed = {name: stored[name] + 1 for name in stored.files}
        np.savez(arrays, **changed)
    elif damage == "half arrays":
        arrays.write_bytes(arrays.read_bytes()[:300])
    elif damage == "changed arrays":
        content = bytearray(arrays.read_bytes())
        content[content.index(b"\x93NUMPY") + 130] ^= 255
        arrays.write_bytes(content)
    else:
        json.unlink()
        json.mkdir()

    again = Describer()
    assert plain(take_inventory(cases, again, cache=cache)) == expected
    assert again.seen == ["a", "b", "c"]
    assert plain(take_inventory(cases, again, cache=cache)) == expected
    assert again.seen == ["a", "b", "c"]


def test_a_folder_counts_as_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.dcm").write_text(f"plane {number}")
    seen: list[str] = []

    def describe(case: Case) -> Record:
        seen.append(case.id)
        return Record(case.id, hashes={"file": image_hash(case.images)})

    case = Case("a", folder)
    for _ in range(2):
        take_inventory([case], describe, cache=tmp_path / "cache")
    assert seen == ["a"]
    (folder / "1.dcm").write_text("plane X")
    take_inventory([case], describe, cache=tmp_path / "cache")
    (folder / "3.dcm").write_text("plane 3")
    take_inventory([case], describe, cache=tmp_path / "cache")
    assert seen == ["a"] * 3


def test_duplicates_name_the_first_case_under_the_strongest_kind() -> None:
    hashes = {
        "a": {"file": "1", "pixels": "9"},
        "b": {"file": "1", "pixels": "9"},
        "c": {"file": "2", "pixels": "9"},
        "d": {"file": "3"},
        "e": {},
    }
    records = Inventory(Record(name, hashes=some) for name, some in hashes.items())
    found = duplicates([Case(name, Path(name)) for name in hashes], records, ("file", "pixels"))
    assert [(problem.case_id, problem.reason, problem.detail) for problem in found] == [
        ("b", "duplicate-file", "the same file as a"),
        ("c", "duplicate-pixels", "the same pixels as a"),
    ]


def test_a_record_without_an_array_says_why() -> None:
    bad = Record("a", (Problem("a", "a.png", "corrupt", "a.png is an empty file"),))
    with pytest.raises(DataError, match=r"'a'.*a\.png is an empty file"):
        Inventory([bad]).arrays("descriptor")


def test_names_that_a_spreadsheet_would_run_are_said() -> None:
    cases = [
        Case("=1+1", group="g"),
        Case("a", group="g", site='=HYPERLINK("http://x")', covariates={"age": "-1", "note": "-"}),
        Case("b", group="+49", covariates={"note": "@SUM(A1)"}),
        Case("c-d", group="a=b", site="x@y"),
    ]
    found = formulas(cases)
    assert [(problem.case_id, problem.reason, problem.severity) for problem in found] == [
        ("=1+1", "formula", "warning"),
        ("a", "formula", "warning"),
        ("b", "formula", "warning"),
    ]
    assert "note is '@SUM(A1)'" in found[2].detail and "+49" not in found[2].detail
