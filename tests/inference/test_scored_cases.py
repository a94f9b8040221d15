"""Patients, sites and foreground of a scored folder come from where the user says; without them, no intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.data.cases import Case
from medformer.data.manifest import write_manifest
from medformer.errors import ConfigError, DataError
from medformer.inference.scored_cases import CaseSource
from medformer.inference.scoring import Unpaired, score_folder, write_scores

NAMES = ("p1_a", "p1_b", "p2_a")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Masks that mark 2 of 1 and 2, and predictions of them."""
    for place, values in (("masks", (1, 2)), ("maps", (0, 255))):
        (tmp_path / place).mkdir()
        for name in NAMES:
            pixels = np.full((12, 12), values[0], np.uint8)
            pixels[3:8, 3:8] = values[1]
            Image.fromarray(pixels).save(tmp_path / place / f"{name}.png")
            Image.new("RGB", (12, 12)).save(tmp_path / f"{name}.jpg")
    return tmp_path


def manifest(folder: Path, **more: str) -> Path:
    cases = [
        Case(
            f"set/{number}",
            folder / f"{name}.jpg",
            folder / "masks" / f"{name}.png",
            group=name[:2],
            site=f"hospital {number % 2}",
            covariates={"sex": "F", "age": "60", **more},
            foreground=("2",),
        )
        for number, name in enumerate(NAMES)
    ]
    write_manifest(folder / "cases.csv", cases)
    return folder / "cases.csv"


def test_a_manifest_tells_patients_sites_and_foreground_by_the_files_of_masks(folder: Path) -> None:
    source = CaseSource(manifest=manifest(folder), ungrouped="error")
    rows, summary = score_folder(folder / "maps", folder / "masks", cases=source)
    assert [(row["id"], row["group"], row["site"], row["dice"]) for row in rows] == [
        ("p1_a", "p1", "hospital 0", 1.0),
        ("p1_b", "p1", "hospital 1", 1.0),
        ("p2_a", "p2", "hospital 0", 1.0),
    ]
    assert summary["pooled"]["groups"] == 2
    assert set(summary["by_site"]) == {"hospital 0", "hospital 1"} and set(summary["by_sex"]) == {"female"}
    moved = folder / "elsewhere"
    (folder / "masks").rename(moved)
    with pytest.raises(DataError, match=r"has no row for 3 of 3 scored cases.*ids are set/0"):
        (moved / "p1_a.png").rename(moved / "x1.png")
        (moved / "p1_b.png").rename(moved / "x2.png")
        (moved / "p2_a.png").rename(moved / "x3.png")
        score_folder(moved, moved, cases=CaseSource(manifest=folder / "cases.csv"))


def test_a_pattern_tells_patients_and_every_name_must_have_one(folder: Path) -> None:
    given = (folder / "maps", folder / "masks")
    rows, _ = score_folder(*given, foreground=("2",), cases=CaseSource(group_pattern=r"^(p\d)"))
    assert [row["group"] for row in rows] == ["p1", "p1", "p2"]
    with pytest.raises(DataError, match=r"finds nothing in 1 of 3 names: p2_a"):
        score_folder(*given, foreground=("2",), cases=CaseSource(group_pattern=r"^(p1)"))
    with pytest.raises(ConfigError, match="Got --groups and --group-pattern"):
        score_folder(*given, cases=CaseSource(groups=folder / "x.csv", group_pattern="(a)"))


def test_where_nobody_says_whose_the_cases_are_there_are_no_intervals(folder: Path) -> None:
    given = (folder / "maps", folder / "masks")
    rows, summary = score_folder(*given, foreground=("2",))
    dice = summary["pooled"]["metrics"]["dice"]
    assert summary["resampled"] == "nothing" and "group" not in rows[0]
    assert dice["mean"] == pytest.approx(sum(row["dice"] for row in rows) / 3) and math.isnan(dice["low"])
    rows, summary = score_folder(*given, foreground=("2",), cases=CaseSource(ungrouped="each"))
    assert [row["group"] for row in rows] == list(NAMES) and "resampled" not in summary


def test_what_only_one_folder_has_is_listed(folder: Path) -> None:
    (folder / "maps" / "p1_a.png").unlink()
    (folder / "masks" / "p2_a.png").rename(folder / "masks" / "p3_a.png")
    given = (folder / "maps", folder / "masks")
    with pytest.raises(DataError, match="--only-common"):
        score_folder(*given, foreground=("2",))
    unpaired: Unpaired = {}
    rows, summary = score_folder(*given, foreground=("2",), unpaired=unpaired)
    assert [row["id"] for row in rows] == ["p1_b"]
    assert unpaired == {"prediction": ["p1_a", "p3_a"], "mask": ["p2_a"]}
    write_scores(folder / "out", rows, summary, unpaired)
    listed = (folder / "out" / "unscored.csv").read_text("utf-8")
    assert listed == "name,without\np1_a,prediction\np3_a,prediction\np2_a,mask\n"
    (folder / "maps" / "p1_b.png").unlink()
    with pytest.raises(DataError, match="do not pair up"):
        score_folder(*given, foreground=("2",), unpaired={})
