"""A cohort's manifest reads back as it was written, and every way to get one wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medformer.data.cases import Case
from medformer.data.connectomes.cohort import read_cohort, write_cohort
from medformer.data.connectomes.store import StoredAtlas, StoreWriter
from medformer.errors import DataError

SUBJECTS = [
    Case(
        "a",
        group="p1",
        site="NYU",
        label=1,
        split="train",
        covariates={"age": "12.5", "sex": "M", "mean_fd": "0.1", "fiq": "101"},
    ),
    Case("b", group="p1", site="NYU", label=0, covariates={"age": "", "sex": "F", "mean_fd": ""}),
    Case("c", group="p2"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "features", {"six": StoredAtlas(6, "series", tuple("abcdef"))}) as writer:
        for seed, name in enumerate("cab"):
            writer.add(name, {"six": np.random.default_rng(seed).normal(size=(9, 6))})
    return tmp_path


def test_round_trip(folder: Path) -> None:
    path = write_cohort(folder, SUBJECTS)
    assert path.read_text().startswith("id,group,site,split,label,age,sex,mean_fd,fiq\n")
    cohort = read_cohort(folder, unlabelled="allow")
    assert [(s.id, s.group, s.site, s.label, s.split) for s in cohort.cases] == [
        (s.id, s.group, s.site, s.label, s.split) for s in SUBJECTS
    ]
    assert cohort.rows == [1, 2, 0]
    assert cohort.by_id["a"].covariates["fiq"] == "101"
    assert cohort.by_id["a"].covariate("age") == 12.5
    assert [cohort.by_id[name].covariate("sex") for name in "ab"] == [1.0, 0.0]
    assert read_cohort(path, unlabelled="allow").digest() == cohort.digest()


def test_a_covariate_that_is_not_known_is_named(folder: Path) -> None:
    write_cohort(folder, SUBJECTS[:2])
    with pytest.raises(DataError, match="mean_fd of case 'b' is not known"):
        read_cohort(folder).by_id["b"].covariate("mean_fd")


def test_a_person_without_group_is_their_own(folder: Path) -> None:
    (folder / "manifest.csv").write_text("id,label\na,1\nb,0\n")
    assert [subject.group for subject in read_cohort(folder).cases] == ["a", "b"]


def test_the_digest_follows_every_column(folder: Path) -> None:
    write_cohort(folder, SUBJECTS[:2])
    before = read_cohort(folder).digest()
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("12.5", "12.6"))
    assert read_cohort(folder).digest() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,site\na,x\n", "lacks the columns label"),
        ("id,label\n", "no rows"),
        ("id,label\na,2\n", "line 2 .*the label is '2'; expected 1 .positive. or 0 .negative."),
        ("id,label\na,\n", "line 2 .*the label is ''"),
        ("id,label\na,1\na,0\n", "line 3 .*used before, on line 2"),
        ("id,label\na,1,x\n", "line 2 has 3 cells"),
        ("id,label\nz,1\n", "line 2 .*does not hold this subject"),
        ("id,label,sex\na,1,2\n", "the sex is '2'; expected M, F"),
        ("id,label,age\na,1,old\n", "age is 'old'; expected a number"),
        ("id,label,mean_fd\na,1,-9999\n", "mean_fd is '-9999'"),
        ("id,label\n../a,1\n", "names the exported files"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_cohort(folder)


def test_without_manifest_or_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a cohort manifest"):
        read_cohort(tmp_path)
    (tmp_path / "manifest.csv").write_text("id,label\na,1\n")
    with pytest.raises(DataError, match="expected the feature store"):
        read_cohort(tmp_path)


def test_a_manifest_whose_ids_lost_their_zeros_still_has_its_connectomes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "features", {"six": StoredAtlas(6, "series", tuple("abcdef"))}) as writer:
        for seed, name in enumerate(("0050001", "0050002")):
            writer.add(name, {"six": np.random.default_rng(seed).normal(size=(9, 6))})
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id,label\n50002,1\n50001.0,0\n")
    cohort = read_cohort(tmp_path)
    assert ([case.id for case in cohort.cases], cohort.rows) == (["0050002", "0050001"], [1, 0])
    manifest.write_text("id,label\n50002,1\n0050002,0\n")
    with pytest.raises(DataError, match="'50002' and '0050002' may both be '0050002'"):
        read_cohort(tmp_path)
    manifest.write_text("id,label\n50003,1\n")
    with pytest.raises(DataError, match="does not hold this subject"):
        read_cohort(tmp_path)
