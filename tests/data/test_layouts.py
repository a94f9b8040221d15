"""Every known layout becomes cases, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.data.frames.layouts import Scan, scan
from medformer.data.frames.named_splits import named_split
from medformer.data.manifest import read_manifest, write_manifest
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


def test_two_folders_of_one_name_are_reported(tmp_path: Path) -> None:
    folders = [dataset(tmp_path / "x" / "same", ["1"]), dataset(tmp_path / "y" / "same", ["1", "2"])]
    found = scan(folders)
    assert [case.id for case in found.cases] == ["same/1", "same/2"]
    assert reasons(found) == [("duplicate-name", "same/1")]


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
