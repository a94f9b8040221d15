"""`medformer audit` finds what somebody else's split shares, and nothing in a clean one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medformer.data.cases import Case
from medformer.data.manifest import write_manifest
from medformer.data.synthetic.abide import write_synthetic_abide
from medformer.files import read_csv, read_json, write_csv, write_json
from medformer.tasks.split_audit import audit_data

Medformer = Callable[..., Any]


def picture(seed: int, path: Path) -> Path:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((80, 80, 3)), (5, 5, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(130 + noise / noise.std() * 40, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Eight pictures of four patients."""
    cases = [
        Case(f"c{n}", picture(n, tmp_path / "images" / f"c{n}.png"), group=f"patient {n // 2}", site="ab"[n > 3])
        for n in range(8)
    ]
    write_manifest(tmp_path / "cases.csv", cases)
    return tmp_path / "cases.csv"


def test_a_clean_split_passes_and_is_described(medformer: Medformer, manifest: Path, tmp_path: Path) -> None:
    split = tmp_path / "splits_final.json"
    write_json(split, [{"train": ["c0", "c1", "c2", "c3", "c4", "c5"], "val": ["c6", "c7"]}])
    result = medformer("audit", manifest, "--splits", split, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "the same patient or sequence on both sides: none" in result.out
    assert "Largest deviation: in fold 0, val, site=a is 0%" in " ".join(result.out.split())
    found = read_json(tmp_path / "out" / "audit.json")
    assert (found["audit"]["leaks"], found["groups"], found["split"]["cases_in_no_part"]) == (0, 4, [])
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    assert "Nothing was found on both sides of the split" in page and str(tmp_path) not in page
    rows = read_csv(tmp_path / "out" / "balance.csv")
    assert [(row["Fold"], row["Part"], row["Cases"], row["Groups"]) for row in rows] == [
        ("all", "all", "8", "4"),
        ("0", "training", "6", "3"),
        ("0", "val", "2", "1"),
    ]


def test_a_leaking_split_ends_with_4_unless_accepted(medformer: Medformer, manifest: Path, tmp_path: Path) -> None:
    split = tmp_path / "folds.csv"
    folds = dict.fromkeys([f"c{n}" for n in range(8)], "0") | dict.fromkeys(["c1", "c4", "c5", "c9"], "1")
    write_csv(split, [{"id": name, "fold": fold} for name, fold in folds.items()], ["id", "fold"])
    result = medformer("audit", manifest, "--splits", split, "--out", tmp_path / "out")
    result.refused(4, "1 group", "group:patient 0", "c0.png", "c1.png", "--accept-leak")
    assert "1 name of the split match no case of the data (c9)" in result.out
    assert [row["name"] for row in read_csv(tmp_path / "out" / "findings.csv")] == ["group:patient 0"]
    accepted = medformer("audit", manifest, "--splits", split, "--accept-leak", "group:patient 0")
    assert accepted.code == 0 and "1 finding, accepted by name." in accepted.out
    # Without a split, there is nothing to look at.
    medformer("audit", manifest).refused(2, "has no split of its own", "--splits FILE")


def test_pictures_alone_are_compared_by_what_they_show(medformer: Medformer, tmp_path: Path) -> None:
    for number in range(6):
        picture(number, tmp_path / "frames" / f"{number}.png")
    # The same scene under another name, in another format.
    Image.open(tmp_path / "frames" / "0.png").save(tmp_path / "frames" / "copy.jpg", quality=85)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("0.png\n1.png\n2.png\n")
    (tmp_path / "lists" / "test.txt").write_text("copy.jpg\n4.png\n5.png\n")
    result = medformer("audit", tmp_path / "frames", "--splits", tmp_path / "lists")
    result.refused(4, "near-duplicate:0|copy")
    assert "No patient or sequence is known" in result.out
    assert "1 case of the data is in no part of the split (3)" in result.out
    (tmp_path / "frames" / "4.png").write_bytes(b"no picture")
    (tmp_path / "lists" / "test.txt").write_text("4.png\n5.png\n")
    medformer("audit", tmp_path / "frames", "--splits", tmp_path / "lists").refused(3, "could not be compared", "4.png")


def test_a_case_in_two_parts_is_a_leak(medformer: Medformer, manifest: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"train": ["c0", "c1", "c2"], "test": ["c2", "c3"]})
    result = medformer("audit", manifest, "--splits", tmp_path / "a.json")
    result.refused(4, "id:c2|c2")
    assert "1 case in two parts of one division, such as c2 (train and test)" in result.out


def test_volumes_of_nnunet_and_their_splits(medformer: Medformer, tmp_path: Path) -> None:
    for number in range(4):
        noise = ndimage.gaussian_filter(np.random.default_rng(number % 3).standard_normal((24, 24, 16)), 2)
        for place, name, values in (
            ("imagesTr", f"case_{number}_0000", (100 * noise / noise.std() + 300 + (number == 3)).astype(np.float32)),
            ("labelsTr", f"case_{number}", (noise > 0.02).astype(np.uint8)),
        ):
            (tmp_path / "data" / place).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "data" / place / f"{name}.nii.gz")
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "x": 1}, "numTraining": 4}
    write_json(tmp_path / "data" / "dataset.json", {**content, "file_ending": ".nii.gz"})
    split = tmp_path / "splits_final.json"
    write_json(split, [{"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}])
    medformer("audit", tmp_path / "data", "--splits", split).refused(4, "near-duplicate:case_0|case_3", "fold 0 val")
    write_json(split, [{"train": ["case_0", "case_3"], "val": ["case_1", "case_2"]}])
    clean = medformer("audit", tmp_path / "data", "--splits", split)
    assert clean.code == 0, clean.err
    assert "4 cases of 4 groups (task volume)" in clean.out and "which volumes are of one patient" in clean.out


def test_a_cohort_and_folds_by_ids_without_zeros(medformer: Medformer, tmp_path: Path) -> None:
    write_synthetic_abide(tmp_path / "pcp", subjects=8, regions={"coarse": 12}, sites=2, effect=3.0, volumes=40)
    assert medformer("abide", "prepare", tmp_path / "pcp", "--out", tmp_path / "cohort").code == 0
    people = [row["group"].lstrip("0") for row in read_csv(tmp_path / "cohort" / "manifest.csv")]
    folds = tmp_path / "folds.csv"
    write_csv(folds, [{"id": name, "fold": number % 2} for number, name in enumerate(people)], ["id", "fold"])
    result = medformer("audit", tmp_path / "cohort", "--splits", folds)
    assert result.code == 0, result.err
    assert "8 cases of 8 groups (task abide)" in result.out and "the same connections on both sides: none" in result.out
    medformer("audit", tmp_path / "pcp", "--splits", folds).refused(2, "medformer abide prepare")


@pytest.mark.slow
@pytest.mark.real_data
def test_26_of_29_sequences_of_clinicdb_are_on_both_sides_of_pranets_lists() -> None:
    if not os.environ.get("MEDFORMER_DATA"):
        pytest.skip("MEDFORMER_DATA is not set")
    folder = Path(os.environ["MEDFORMER_DATA"]) / "polyp" / "CVC-ClinicDB"
    found = audit_data(folder, [Path("pranet")])
    kinds = Counter(finding.kind for finding in found.audit.findings)
    assert (found.cases, found.groups, kinds["group"]) == (612, 29, 26)
    clean = audit_data(folder, [Path("clinicdb-sequences")])
    assert clean.clean and clean.cases == 612
