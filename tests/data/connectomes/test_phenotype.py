"""Phenotypic tables are read by the names of their columns, and every row that cannot be used says why."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from medformer.data.connectomes.read.phenotype import Phenotype, read_phenotype
from medformer.errors import DataError

HEADER = "SUB_ID,FILE_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX,func_mean_fd"
RATERS = "qc_rater_1,qc_anat_rater_2,qc_func_rater_2,qc_anat_rater_3,qc_func_rater_3"


def read(folder: Path, text: str, name: str = "Phenotypic.csv") -> Phenotype:
    (folder / name).write_text(text, encoding="utf-8")
    return read_phenotype(folder / name)


def reasons(table: Phenotype) -> list[tuple[str, str]]:
    return [(problem.case_id, problem.reason) for problem in table.problems]


def test_positive_is_autism(tmp_path: Path) -> None:
    table = read(tmp_path, f"{HEADER}\n50001,NYU_0050001,NYU,1,9.5,1,0.1\n50002,NYU_0050002,NYU,2,10,2,-9999\n")
    first, second = (candidate.subject for candidate in table.candidates)
    assert (first.id, first.group, first.site, first.label) == ("NYU_0050001", "0050001", "NYU", 1)
    assert dict(first.covariates) == {"age": "9.5", "sex": "M", "mean_fd": "0.1", "fiq": ""}
    assert second.label == 0
    assert second.covariates["sex"] == "F"
    assert second.covariates["mean_fd"] == ""
    assert [candidate.usable for candidate in table.candidates] == [None, None]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff,Unnamed: 0,sub_id,file_id,site_id,dx_group, Age_At_Scan ,sex\n0,1,50001,NYU_0050001,NYU,1,9.5,1\n",
        "participant_id,FILE_ID,site,label,age,sex\n50001,NYU_0050001,NYU,1,9.5,male\n",
        "SUB_ID,FILE_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX\n50001,NYU_0050001,NYU,1.0,9.5,1.0\n",
    ],
)
def test_header_variants(tmp_path: Path, text: str) -> None:
    (candidate,) = read(tmp_path, text).candidates
    subject = candidate.subject
    assert (subject.id, subject.group, subject.site, subject.label) == ("NYU_0050001", "0050001", "NYU", 1)
    assert (subject.covariates["age"], subject.covariates["sex"]) == ("9.5", "M")


def test_tabs_where_the_name_says_so(tmp_path: Path) -> None:
    table = read(tmp_path, "participant_id\tdx\tsex\nsub-01\t0\tF\n", "participants.tsv")
    assert not table.names_files
    assert [(one.subject.id, one.subject.label) for one in table.candidates] == [("sub-01", 0)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("50001,no_filename,NYU,1,9,1,0.1", ("0050001", "no-file")),
        ("50001,,NYU,1,9,1,0.1", ("0050001", "no-file")),
        ("50001,a,NYU,3,9,1,0.1", ("a", "unknown-label")),
        ("50001,a,NYU,-9999,9,1,0.1", ("a", "unknown-label")),
        ("50001,a,NYU,1,old,1,0.1", ("a", "bad-value")),
        ("50001,a,NYU,1,9,3,0.1", ("a", "bad-value")),
        ("50001,a,NYU,1,9,1,-1", ("a", "bad-value")),
        ("50001,../a,NYU,1,9,1,0.1", ("../a", "bad-value")),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path: Path, row: str, reason: tuple[str, str]) -> None:
    table = read(tmp_path, f"{HEADER}\n{row}\n50002,b,NYU,2,9,1,0.1\n50003,c,NYU,1,9,1,0.1\n")
    assert reasons(table) == [reason]
    assert [candidate.subject.id for candidate in table.candidates] == ["b", "c"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["1,a,NYU,1,9,1,0.1", "1,b,UM,1,9,1,0.1"], "two-sites"),
        (["1,a,NYU,1,9,1,0.1", "1,b,NYU,2,9,1,0.1"], "label-conflict"),
        (["1,a,NYU,1,9,1,0.1", "2,a,NYU,1,9,1,0.1"], "doubled-row"),
    ],
)
def test_who_is_said_to_be_two_things_is_left_out(tmp_path: Path, rows: list[str], reason: str) -> None:
    rows = [*rows, "3,c,NYU,1,9,1,0.1"]
    random.shuffle(rows)
    table = read(tmp_path, "\n".join([HEADER, *rows]) + "\n")
    assert [problem.reason for problem in table.problems] == [reason, reason]
    assert [candidate.subject.id for candidate in table.candidates] == ["c"]
    if reason == "two-sites":
        assert "NYU" in table.problems[0].detail and "UM" in table.problems[0].detail


def test_two_scans_of_one_person_share_the_group(tmp_path: Path) -> None:
    table = read(tmp_path, f"{HEADER}\n1,a,NYU,1,9,1,0.1\n1,b,NYU,1,9,1,0.1\n")
    assert [candidate.subject.group for candidate in table.candidates] == ["0000001", "0000001"]


@pytest.mark.parametrize(
    ("ratings", "usable"),
    [
        ("OK,OK,OK,OK,OK", True),
        ("OK,maybe,maybe,OK,OK", True),
        ("maybe,OK,OK,OK,OK", False),
        ("OK,fail,OK,OK,OK", False),
        ("OK,OK,OK,OK,fail", False),
        ("OK,,,OK,OK", False),
    ],
)
def test_usable_as_nilearn_says(tmp_path: Path, ratings: str, usable: bool) -> None:
    table = read(tmp_path, f"{HEADER},{RATERS}\n1,a,NYU,1,9,1,0.1,{ratings}\n")
    assert [candidate.usable for candidate in table.candidates] == [usable]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SUB_ID,SITE_ID\n1,NYU\n", r"lacks DX_GROUP \(1 autism, 2 control\)"),
        ("SITE_ID,DX_GROUP\nNYU,1\n", "lacks SUB_ID"),
        ("SUB_ID,DX_GROUP,dx_group\n1,1,1\n", "names the column dx_group more than once"),
        ("SUB_ID,DX_GROUP\n1\n", "1 bad rows of 1"),
        ("", "is empty"),
    ],
)
def test_no_such_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


@pytest.mark.real_data
def test_the_table_of_abide(medformer_data: Path) -> None:
    table = read_phenotype(medformer_data / "abide" / "pcp_layout_sample" / "Phenotypic_V1_0b_preprocessed1.csv")
    assert len(table.candidates) == 1035
    assert [problem.reason for problem in table.problems] == ["no-file"] * 77
    usable = [candidate.subject for candidate in table.candidates if candidate.usable]
    assert len(usable) == 871
    assert sum(subject.label for subject in usable) == 403
