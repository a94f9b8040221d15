"""Every known layout becomes cases, and what does not fit is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.data import folders as folders_module
from medformer.data.frames.layouts import Scan, scan
from medformer.data.frames.named_splits import named_split
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.problems import write_problems
from medformer.errors import ConfigError, DataError, UnknownNameError


def put(path: Path, level: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20), level, np.uint8)).save(path)
    return path


def dataset(folder: Path, stems: list[str], images: str = "images", masks: str = "masks") -> Path:
    for stem in stems:
        put(folder / images / f"{stem}.jpg")
        put(folder / masks / f"{stem}.png", 255)
    return folder


def reasons(found: Scan) -> list[tuple[str, str]]:
    return sorted((problem.reason, problem.case_id) for problem in found.problems)


def test_kvasir_layout_pairs_by_stem_whatever_the_ending(tmp_path: Path) -> None:
    found = scan(dataset(tmp_path / "hospital", ["b10", "b2"]))
    assert [case.id for case in found.cases] == ["hospital/b2", "hospital/b10"]
    case = found.cases[0]
    assert case.image == tmp_path / "hospital" / "images" / "b2.jpg"
    assert case.mask == tmp_path / "hospital" / "masks" / "b2.png"
    assert (case.site, case.group, case.split, len(case.sha256)) == ("hospital", "", "", 64)
    assert found.problems == ()


def test_unpaired_doubled_and_foreign_files_are_named(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "h", ["a", "b"])
    put(folder / "images" / "no_mask.jpg")
    put(folder / "masks" / "no_image.png")
    put(folder / "images" / "b.png")
    (folder / "images" / "notes.txt").write_text("x")
    (folder / "images" / ".hidden").write_text("x")
    (folder / "images" / "more").mkdir()
    found = scan(folder)
    assert reasons(found) == [
        ("duplicate-name", "h/b"),
        ("missing-image", "h/b"),
        ("missing-image", "h/no_image"),
        ("missing-mask", "h/no_mask"),
        ("not-an-image", "h/more"),
        ("not-an-image", "h/notes"),
    ]
    assert [(case.id, case.mask is None) for case in found.cases] == [("h/a", False), ("h/no_mask", True)]


def test_several_datasets_at_once_keep_equal_names_apart(tmp_path: Path) -> None:
    dataset(tmp_path / "one", ["1", "2"])
    dataset(tmp_path / "two", ["1"], "Original", "Ground Truth")
    (tmp_path / "docs").mkdir()
    assert [case.id for case in scan(tmp_path).cases] == ["one/1", "one/2", "two/1"]
    assert [case.id for case in scan([tmp_path / "two", tmp_path / "one"]).cases] == ["two/1", "one/1", "one/2"]


def test_folders_of_one_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    folders = [dataset(tmp_path / place, ["p1_a", "p2_a"]) for place in ("x/data", "y/data", "other")]
    found = scan([*folders, folders[0], tmp_path / "x" / ".." / "x" / "data"], group_pattern=r"^(p\d)_")
    assert [case.id for case in found.cases][::2] == ["x/data/p1_a", "y/data/p1_a", "other/p1_a"]
    assert len({case.group for case in found.cases}) == 6
    assert found.problems == ()
    (note,) = found.notes
    assert "2 folders are named data; their sites are x/data, y/data. Name them with --site" in note


def test_sites_have_the_names_that_the_user_gives(tmp_path: Path) -> None:
    folders = [dataset(tmp_path / place, ["1"]) for place in ("x/data", "y/data")]
    assert [case.id for case in scan(folders, sites=["Oslo", "Rome"]).cases] == ["Oslo/1", "Rome/1"]
    together = scan(folders, sites=["Oslo"])
    assert [case.site for case in together.cases] == ["Oslo"]
    assert reasons(together) == [("duplicate-name", "Oslo/1")]
    with pytest.raises(ConfigError, match=r"Got 3 sites for 2 folders; expected one --site for all"):
        scan(folders, sites=["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"one data set, and .*x holds several: data, more"):
        dataset(tmp_path / "x" / "more", ["1"])
        scan(tmp_path / "x", sites=["Oslo"])
    with pytest.raises(ConfigError, match="cannot begin an id"):
        scan(folders, sites=["../out"])


def test_a_public_data_set_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    found = scan([dataset(tmp_path / "x" / "Kvasir-SEG", ["1"]), dataset(tmp_path / "y" / "kvasir", ["1", "2"])])
    assert [case.id for case in found.cases] == ["Kvasir-SEG/1", "Kvasir-SEG/2"]
    assert reasons(found) == [("duplicate-name", "Kvasir-SEG/1")]


def test_names_of_files_that_no_id_can_have_are_listed(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "h", ["a", "3\u00b2", "10", "\u0663"])
    for place in ("images", "masks"):
        raw = os.fsencode(folder / place)
        os.rename(raw + (b"/a.jpg" if place == "images" else b"/a.png"), raw + b"/gr\xf6sse.png")
    found = scan(folder)
    assert [case.id for case in found.cases] == ["h/3\u00b2", "h/10", "h/\u0663"]
    assert [problem.reason for problem in found.problems] == ["bad-name", "bad-name"]
    assert "bytes that are not UTF-8" in found.problems[0].detail
    write_problems(tmp_path / "problems.csv", found.problems)
    assert "gr\\udcf6sse.png" in (tmp_path / "problems.csv").read_text("utf-8")
    write_manifest(tmp_path / "m.csv", found.cases)


def test_a_path_that_a_manifest_cannot_keep_is_refused(tmp_path: Path) -> None:
    for name in ("back\\slash", os.fsdecode(b"gr\xf6sse")):
        found = scan(dataset(tmp_path / "all" / name, ["a"]), sites=["h"])
        with pytest.raises(DataError, match="which a manifest cannot keep"):
            write_manifest(tmp_path / "m.csv", found.cases)


def test_what_is_no_picture_to_read_is_listed_and_not_opened(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "h", ["a"])
    os.mkfifo(folder / "images" / "pipe.png")
    (folder / "images" / "folder.png").mkdir()
    (folder / "masks" / "gone.png").symlink_to("nowhere.png")
    found = scan(folder)
    assert sorted((problem.reason, problem.detail) for problem in found.problems) == [
        ("broken-link", "it leads to nowhere.png"),
        ("not-an-image", "is a folder"),
        ("not-readable", "it is a named pipe"),
    ]
    assert [case.id for case in found.cases] == ["h/a"]


def test_a_file_that_may_not_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dataset(tmp_path / "h", ["a", "b"])
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jpg"))
    assert ("not-readable", "h/a") in reasons(scan(folder))


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"^((?:a|aa)+)+$", r"(?:\w+\s?)+(x)"])
def test_a_pattern_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setattr(folders_module, "_PATTERN_SECONDS", 1.0)
    name = "a" * 60 + "!"
    with pytest.raises(ConfigError, match=r"was still searching 1 name after 1 s\. Write it without repeats"):
        scan(dataset(tmp_path / "h", [name]), group_pattern=pattern)


def test_pranet_layout_fills_split_and_dataset(tmp_path: Path) -> None:
    table = named_split("pranet")
    kvasir = next(row.stem for row in table.rows.values() if row.dataset == "Kvasir-SEG" and row.split == "train")
    clinic = next(row for row in table.rows.values() if row.dataset == "CVC-ClinicDB" and row.split == "train")
    dataset(tmp_path / "TrainDataset", [kvasir, clinic.stem, "foreign"], "image")
    dataset(tmp_path / "TestDataset" / "Kvasir", ["cju1"])
    dataset(tmp_path / "TestDataset" / "CVC-300", ["149"])
    found = scan(tmp_path)
    assert {(case.id, case.split) for case in found.cases} == {
        (f"Kvasir-SEG/{kvasir}", "train"),
        (f"CVC-ClinicDB/{clinic.stem}", "train"),
        ("TrainDataset/foreign", "train"),
        ("Kvasir-SEG/cju1", "test"),
        ("CVC-300/149", "test"),
    }
    groups = {case.id: case.group for case in found.cases}
    assert groups[f"CVC-ClinicDB/{clinic.stem}"] == f"CVC-ClinicDB/{clinic.group}"
    assert groups[f"Kvasir-SEG/{kvasir}"] == ""


def test_a_named_split_fills_the_columns_and_says_what_differs(tmp_path: Path) -> None:
    found = scan(dataset(tmp_path / "CVC-ClinicDB", ["1", "25", "26", "extra"]), split="clinicdb-sequences")
    assert [case.group for case in found.cases] == [
        "CVC-ClinicDB/sequence-01",
        "CVC-ClinicDB/sequence-01",
        "CVC-ClinicDB/sequence-02",
        "",
    ]
    assert found.cases[0].split in {"train", "test"}
    assert found.cases[0].covariates["fold"] in set("01234")
    assert found.cases[3].split == ""
    counts = [problem.reason for problem in found.problems]
    assert counts.count("not-in-split") == 1
    assert counts.count("split-case-missing") == 612 - 3


def test_the_group_pattern_is_searched_in_the_stem(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "h", ["p07_frame1", "p07_frame2", "odd"])
    groups = {case.id: case.group for case in scan(folder, group_pattern=r"^(p\d+)_").cases}
    assert groups == {"h/p07_frame1": "h/p07", "h/p07_frame2": "h/p07", "h/odd": ""}


@pytest.mark.parametrize("pattern", ["(", "p\\d+", "(p)(q)"])
def test_patterns_that_cannot_give_a_group(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="group pattern"):
        scan(dataset(tmp_path / "h", ["a"]), group_pattern=pattern)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        scan(tmp_path / "none")
    put(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"no known layout; found loose\.png; expected images/ and masks/"):
        scan(tmp_path)
    (tmp_path / "e" / "images").mkdir(parents=True)
    (tmp_path / "e" / "masks").mkdir()
    (tmp_path / "half" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"found images \(there is images/, and no folder of masks beside it\)"):
        scan(tmp_path / "half")
    with pytest.raises(DataError, match="No images were found"):
        scan(tmp_path / "e")
    with pytest.raises(UnknownNameError, match="pranet"):
        scan(dataset(tmp_path / "f", ["a"]), split="pranett")


def test_what_is_scanned_reads_back_as_a_manifest(tmp_path: Path) -> None:
    found = scan(dataset(tmp_path / "data" / "CVC-ClinicDB", ["1", "2"]))
    write_manifest(tmp_path / "out" / "manifest.csv", found.cases)
    again = read_manifest(tmp_path / "out" / "manifest.csv").cases
    assert [(case.id, case.image, case.mask, case.group, case.sha256) for case in again] == [
        (case.id, case.image, case.mask, case.group, case.sha256) for case in found.cases
    ]


@pytest.mark.parametrize("name", ["3.45\u202fPM", "a\u00a0b", "\u3000scan 1", "end ", "\u202egnp"])
def test_a_name_with_unusual_spaces_comes_back_from_the_manifest(tmp_path: Path, name: str) -> None:
    cases = scan(dataset(tmp_path / "h", [name]), group_pattern="(.)").cases
    write_manifest(tmp_path / "m.csv", cases)
    assert read_manifest(tmp_path / "m.csv").cases == cases
    assert cases[0].id == f"h/{name.strip()}"
    assert cases[0].mask == tmp_path / "h" / "masks" / f"{name}.png"


def test_names_that_differ_in_a_space_at_their_end_are_doubled(tmp_path: Path) -> None:
    assert ("duplicate-name", "h/a") in reasons(scan(dataset(tmp_path / "h", ["a", "a ", "b"])))


def test_a_problem_is_one_line_without_control_characters(tmp_path: Path) -> None:
    found = scan(dataset(tmp_path / "h", ["a\n\x1b[31m", "b"]))
    assert {str(problem).splitlines()[0] for problem in found.problems} == {str(one) for one in found.problems}
    assert all(str(problem).isprintable() for problem in found.problems)


def test_sites_are_read_from_names(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "all", ["olympus_1", "pentax_1"])
    found = scan(folder, site_pattern=r"^([a-z]+)_", group_pattern=r"_(\d+)$")
    assert [(case.id, case.site, case.group) for case in found.cases] == [
        ("olympus/olympus_1", "olympus", "olympus/1"),
        ("pentax/pentax_1", "pentax", "pentax/1"),
    ]
    with pytest.raises(DataError, match=r"finds nothing in 1 of 2 names; expected a site in each:\s+pentax_1"):
        scan(folder, site_pattern="^(olympus)")
    with pytest.raises(ConfigError, match="Got --site and --site-pattern"):
        scan(folder, site_pattern="^(olympus)", sites=["A"])


def test_masks_that_are_all_named_otherwise_are_an_error(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        put(tmp_path / "h" / "images" / f"{stem}.jpg")
        put(tmp_path / "h" / "masks" / f"{stem}_mask.png", 255)
    with pytest.raises(DataError, match=r"first image is a.jpg, the first mask a_mask.png.*Take '_mask' out"):
        scan(tmp_path / "h")
