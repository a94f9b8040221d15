"""Phenotypic tables as spreadsheets write them: each gives the right cohort, or an error that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from medformer.data.connectomes.cohort import read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.errors import ConfigError, DataError
from medformer.files import read_csv

COUNT = 4
HEAD = "SUB_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX"
ROWS = [f"{50001 + n},S{n % 2},{1 + n // 2},{10 + n},{1 + n % 2}" for n in range(COUNT)]
TABLE = "\n".join([HEAD, *ROWS]) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    (place / "mine").mkdir(parents=True)
    for number in range(COUNT):
        values = np.random.default_rng(number).normal(size=(5, 30))
        np.save(place / "mine" / f"{50001 + number}.npy", np.corrcoef(values))
    return place


def labels(folder: Path, content: bytes | str, name: str = "Phenotypic.csv", **options: str) -> list[int | None]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    made = prepare_cohort(folder, folder.parent / "out", **options)
    return [case.label for case in read_cohort(made.manifest).cases]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (TABLE, "Phenotypic.csv"),
        (TABLE.encode("utf-8-sig"), "phenotypic_mine.csv"),
        (TABLE.replace("\n", "\r\n"), "ABIDEII_Composite_Phenotypic.csv"),
        (TABLE.replace("\n", "\n\n") + " ,,,,\n", "participants.csv"),
        (TABLE.replace(",", "\t"), "participants.tsv"),
        ('"' + TABLE.strip().replace(",", '","').replace("\n", '"\n"') + '"\n', "Phenotypic.csv"),
        (TABLE.replace("SUB_ID", "Subject ID").replace("SEX", "Gender"), "Phenotypic.csv"),
        (TABLE.replace("SUB_ID", "id").replace(",1,1", ",1.0,1"), "Phenotypic.csv"),
    ],
)
def test_spellings_of_one_table(folder: Path, content: bytes | str, name: str) -> None:
    assert labels(folder, content, name) == [1, 1, 0, 0]


@pytest.mark.parametrize("word", ["", "NA", "n/a", "nan", "None", "null", "-9999", "-9999.0", " ", "unknown"])
def test_missing_values(folder: Path, word: str) -> None:
    assert labels(folder, TABLE.replace(",10,", f",{word},").replace("S0", word or "S0")) == [1, 1, 0, 0]
    assert read_cohort(folder.parent / "out").cases[0].covariates["age"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + "\n", "has a header but no rows"),
        ("", "is empty"),
        (TABLE.replace(",", ";"), "lacks SUB_ID .*separated by semicolons or tabs"),
        (TABLE.replace(",", "\t"), "lacks SUB_ID .*separated by semicolons or tabs"),
        (TABLE.replace("S0", "Köln").encode("latin-1"), "is not UTF-8"),
        (TABLE.encode("utf-16"), "is not UTF-8"),
        (TABLE + "50009,S1\n", "1 bad rows of 5"),
        (TABLE.replace(",10,", ',"' + "a" * 140_000 + '",'), "after line 1: a cell is longer than 131,072 characters"),
        (TABLE.replace("S0", '"S0'), "not a well-formed CSV"),
        (TABLE.replace("SUB_ID", "who"), r"lacks SUB_ID \(or participant_id, subject_id"),
    ],
)
def test_tables_that_cannot_be_read(folder: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels(folder, content)


def test_decimal_commas_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)4 bad-value.*age is '10,5'; expected a number"):
        labels(
            folder, "\n".join([HEAD, *(row.replace(f",{10 + n},", f',"{10 + n},5",') for n, row in enumerate(ROWS))])
        )


@pytest.mark.parametrize("words", [("ASD", "TC"), ("autism", "Control"), ("Patient", "HC"), ("True", "False")])
def test_diagnoses_in_words(folder: Path, words: tuple[str, str]) -> None:
    rows = [f"{50001 + n},{words[n // 2]}" for n in range(COUNT)]
    assert labels(folder, "\n".join(["id,diagnosis", *rows])) == [1, 1, 0, 0]
    assert read_cohort(folder.parent / "out").label_names == {1: words[0], 0: words[1]}


@pytest.mark.parametrize(("column", "values"), [("DX_GROUP", "01"), ("label", "12"), ("diagnosis", ("MDD", "HC"))])
def test_a_coding_that_nobody_knows_is_asked_about_instead_of_losing_a_class(
    folder: Path, column: str, values: tuple[str, str]
) -> None:
    table = "\n".join([f"id,{column}", *(f"{50001 + n},{values[n // 2]}" for n in range(COUNT))])
    with pytest.raises(DataError, match=rf"the diagnoses are .*'{values[0]}'.*--positive VALUE"):
        labels(folder, table)
    assert labels(folder, table, positive=values[1].lower()) == [0, 0, 1, 1]
    assert read_cohort(folder.parent / "out").label_names == {1: values[1], 0: values[0]}
    with pytest.raises(DataError, match="with --positive x, expected this value and one other"):
        labels(folder, table, positive="x")


def test_three_diagnoses_are_not_two_classes(folder: Path) -> None:
    with pytest.raises(DataError, match="'ADHD', 'HC', 'MDD'; with --positive MDD"):
        labels(folder, "id,dx\n50001,MDD\n50002,HC\n50003,ADHD\n50004,HC\n", positive="MDD")


def test_names_of_classes_of_numbers(folder: Path) -> None:
    assert labels(folder, TABLE) == [1, 1, 0, 0]
    assert read_cohort(folder.parent / "out").label_names == {1: "autism", 0: "control"}
    assert labels(folder, TABLE.replace("DX_GROUP", "label").replace(",2,1", ",0,1")) != []
    assert read_cohort(folder.parent / "out").label_names == {1: "positive", 0: "negative"}


def test_rows_of_one_subject_and_files_without_a_row_are_listed(folder: Path) -> None:
    assert labels(folder, TABLE + ROWS[0] + "\n" + "50099,S0,1,9,1\n" + "x:y,S0,2,9,1\n") == [1, 0, 0]
    found = {
        row["id"]: (row["reason"], Path(row["path"]).name) for row in read_csv(folder.parent / "out/exclusions.csv")
    }
    assert found == {
        "50001": ("doubled-row", "Phenotypic.csv"),
        "50099": ("no-data", ""),
        "x:y": ("no-data", ""),
    }


def test_damaged_files_are_listed_and_the_others_go_on(folder: Path) -> None:
    files = sorted((folder / "mine").iterdir())
    files[0].unlink()
    os.mkfifo(files[0])
    files[1].write_bytes(files[1].read_bytes().replace(b"(5, 5)", b"(9**9)"))
    assert labels(folder, TABLE) == [0, 0]
    rows = read_csv(folder.parent / "out" / "exclusions.csv")
    assert [(row["id"], row["reason"], row["path"]) for row in rows] == [
        ("50001", "corrupt", str(files[0])),
        ("50002", "corrupt", str(files[1])),
    ]
    assert rows[0]["detail"] == "it is a named pipe"


def test_a_pipe_is_no_table(folder: Path) -> None:
    os.mkfifo(folder / "Phenotypic.csv")
    with pytest.raises(DataError, match="is a named pipe"):
        prepare_cohort(folder, folder.parent / "out")


def test_a_table_beside_a_file_that_has_its_own_is_refused(folder: Path) -> None:
    np.savez(folder / "all.npz", ids=np.arange(3), fc_mine=np.zeros((3, 10)))
    with pytest.raises(ConfigError, match="holds its own labels"):
        prepare_cohort(folder / "all.npz", folder.parent / "out", phenotype=folder / "x.csv")


@pytest.mark.parametrize("words", [("0", "1"), ("0.0", "1.0"), ("M", "W"), ("man", "woman")])
def test_another_coding_of_sex_chooses_nobody_by_sex(folder: Path, words: tuple[str, str]) -> None:
    rows = [row.rsplit(",", 1)[0] + f",{words[n % 2]}" for n, row in enumerate(ROWS)]
    with pytest.raises(DataError, match="choose subjects by their sex"):
        labels(folder, "\n".join([HEAD, *rows]) + "\n")


def test_one_slip_in_the_column_of_sex_leaves_one_out(folder: Path) -> None:
    rows = [ROWS[0].rsplit(",", 1)[0] + ",x", *ROWS[1:]]
    assert len(labels(folder, "\n".join([HEAD, *rows]) + "\n")) == COUNT - 1


def test_sessions_of_bids_are_scans_of_one_person(folder: Path) -> None:
    names = [f"sub-{n // 2:02d}_ses-{n % 2}" for n in range(COUNT)]
    for number, name in enumerate(names):
        (folder / "mine" / f"{50001 + number}.npy").rename(folder / "mine" / f"{name}.npy")
    rows = [f"{name},S,{1 + n // 2},10,1" for n, name in enumerate(names)]
    (folder / "Phenotypic.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    made = prepare_cohort(folder, folder.parent / "out")
    assert [case.group for case in read_cohort(made.manifest).cases] == ["sub-00", "sub-00", "sub-01", "sub-01"]
