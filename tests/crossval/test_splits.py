"""Splits of every form that people have are read, and their names are found among the cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medformer.crossval.plan import Fold, Plan, PlanCase, write_plan
from medformer.crossval.splits.given import BoundSplit, bind
from medformer.crossval.splits.read import read_split
from medformer.data.case_names import CaseNames
from medformer.data.cases import Case
from medformer.errors import ConfigError, DataError

IDS = [f"case_{number}" for number in range(6)]
CASES = [Case(name, Path(f"/data/imagesTr/{name}_0000.nii.gz")) for name in IDS]


def bound(path: Path, content: Any, cases: list[Case] = CASES) -> BoundSplit:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return bind(read_split([path]), cases)


def of_tests(split: BoundSplit) -> list[set[str]]:
    return [set(fold.test) for fold in split.folds()]


FOLDS = [{"train": IDS[2:], "val": IDS[:2]}, {"train": [*IDS[:2], *IDS[4:]], "val": IDS[2:4]}]


@pytest.mark.parametrize(
    "content",
    [
        FOLDS,
        {"fold_0": FOLDS[0], "fold_1": FOLDS[1]},
        [[fold["train"], fold["val"]] for fold in FOLDS],
        {"ids": IDS, "splits": [[[2, 3, 4, 5], [0, 1]], [[0, 1, 4, 5], [2, 3]]]},
        [{"training": [{"image": f"imagesTr/{n}.nii.gz"} for n in f["train"]], "val": f["val"]} for f in FOLDS],
    ],
    ids=["nnunet", "by name", "pairs", "indices", "entries"],
)
def test_folds_in_json(tmp_path: Path, content: Any) -> None:
    found = bound(tmp_path / "splits_final.json", content)
    assert of_tests(found) == [set(IDS[:2]), set(IDS[2:4])]
    assert [set(fold.train) for fold in found.folds()] == [set(fold["train"]) for fold in FOLDS]
    assert found.divisions[0].label.startswith("fold")
    assert "2 cases that no fold tests (case_4, case_5)." in found.notes


def test_parts_in_json_and_a_plan_of_ours(tmp_path: Path) -> None:
    found = bound(tmp_path / "a.json", {"train": IDS[:3], "test": IDS[3:], "seed": 3})
    assert (of_tests(found), found.notes) == ([set(IDS[3:])], [])
    folds = (Fold(0, tuple(IDS[:3]), (IDS[3],), tuple(IDS[4:])),)
    write_plan(tmp_path / "splits.json", Plan("given", 0, tuple(PlanCase(name, name) for name in IDS), folds))
    own = bind(read_split([tmp_path / "splits.json"]), CASES)
    assert own.divisions[0].parts == {"train": tuple(IDS[:4]), "test": tuple(IDS[4:])}


def test_a_list_of_monai_states_the_fold_of_each_entry(tmp_path: Path) -> None:
    training = [{"image": f"imagesTr/{name}.nii.gz", "label": "x", "fold": i % 2} for i, name in enumerate(IDS[:4])]
    found = bound(tmp_path / "list.json", {"training": training, "testing": [{"image": "case_4.nii.gz"}]})
    assert [division.label for division in found.divisions] == ["", "fold 0 ", "fold 1 "]
    assert of_tests(found) == [{"case_0", "case_2"}, {"case_1", "case_3"}] and found.split.assumed
    alone = bound(tmp_path / "list.json", {"training": training, "testing": []})
    assert [division.label for division in alone.divisions] == ["fold 0 ", "fold 1 "]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([[[0, 1], [2]]], "indices say nothing without the order"),
        ({"ids": IDS, "splits": [[[0], [9]]]}, "the index 9"),
        ({"train": IDS}, "expected two or more"),
        ([], "is no split"),
        ("{", "is not complete JSON"),
    ],
)
def test_json_that_is_no_split_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        bound(tmp_path / "a.json", content)


def table(header: str, *rows: str) -> str:
    return "\n".join([header, *rows, ""])


def test_tables(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    folds = bound(file, table("id,fold", *(f"{name},{i // 2}" for i, name in enumerate(IDS))))
    assert of_tests(folds) == [set(IDS[:2]), set(IDS[2:4]), set(IDS[4:])]
    assert folds.split.assumed and set(folds.folds()[0].train) == set(IDS[2:])
    parts = bound(file, table("id,split", *(f"{name},{'test' if i > 3 else 'train'}" for i, name in enumerate(IDS))))
    assert of_tests(parts) == [set(IDS[4:])]
    both = bound(
        file, table("id,split,fold", *(f"{name},{'test' if i > 3 else 'train'},{i % 2}" for i, name in enumerate(IDS)))
    )
    assert [division.label for division in both.divisions] == ["", "fold 0 ", "fold 1 "]
    long = [
        f"{name},{r},{f},{'val' if i % 2 == f else 'train'}"
        for r in (0, 1)
        for f in (0, 1)
        for i, name in enumerate(IDS)
    ]
    repeats = bound(file, table("id,repeat,fold,part", *long))
    assert [(d.label, d.repeat) for d in repeats.divisions] == [
        ("repeat 0 fold 0 ", 0),
        ("repeat 0 fold 1 ", 0),
        ("repeat 1 fold 0 ", 1),
        ("repeat 1 fold 1 ", 1),
    ]
    assert of_tests(repeats)[1] == {"case_1", "case_3", "case_5"}
    with pytest.raises(DataError, match="expected `id` beside `split`"):
        bound(file, table("id,site", "a,b"))
    with pytest.raises(DataError, match="all cases into one part"):
        bound(file, table("id,split", "case_0,train", "case_1,train"))


def test_lists_and_folders_of_them(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("images/case_0.png masks/case_0.png\ncase_1\n\n# a comment\n")
    (tmp_path / "test.txt").write_text("./case_2.nii.gz\ncase_3_0000.nii.gz\n")
    lists = [tmp_path / "train.txt", tmp_path / "test.txt"]
    for sources, title in (([tmp_path], tmp_path.name), (lists, "train.txt, test.txt")):
        found = bind(read_split(sources), CASES)
        assert found.split.title == title
        assert {part: set(ids) for part, ids in found.divisions[0].parts.items()} == {
            "train": {"case_0", "case_1"},
            "test": {"case_2", "case_3"},
        }
        assert found.unplaced == ("case_4", "case_5")
    with pytest.raises(ConfigError, match="one list is one part"):
        read_split([tmp_path / "train.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no split"):
        read_split([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="published split: pranet"):
        read_split([Path("prannet")])


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    found = bound(tmp_path / "a.json", {"train": ["case_0", "case_1", "case_9"], "test": ["case_1", "case_2"]})
    assert found.unknown == ("case_9",)
    assert found.unplaced == ("case_3", "case_4", "case_5")
    assert found.doubled == {"case_1": "train and test"}
    assert len(found.notes) == 3
    with pytest.raises(DataError, match=r"No case of the data is in the split.*it names x, y"):
        bound(tmp_path / "a.json", {"train": ["x"], "test": ["y"]})


def test_a_published_split_names_pictures_by_data_set() -> None:
    split = read_split([Path("clinicdb-sequences")])
    cases = [Case(f"CVC-ClinicDB/{number}", site="CVC-ClinicDB") for number in range(1, 613)]
    found = bind(split, cases)
    assert not found.unknown and not found.unplaced
    assert [division.label for division in found.divisions][:2] == ["", "fold 0 "]


def test_names_of_cases() -> None:
    cases = [
        Case("kvasir/1", Path("/d/Kvasir-SEG/images/1.jpg"), site="Kvasir-SEG"),
        Case("clinic/1", Path("/d/CVC-ClinicDB/images/1.png"), site="CVC-ClinicDB"),
        Case("sub-0050772"),
    ]
    names = CaseNames(cases)
    for spelled, expected in {
        "kvasir/1": "kvasir/1",
        "Kvasir-SEG/images/1.jpg": "kvasir/1",
        "images/1.png": None,
        "CVC-ClinicDB/1": "clinic/1",
        "clinicdb\\1.png": "clinic/1",
        "50772": "sub-0050772",
        "elsewhere/2.png": None,
    }.items():
        if spelled == "images/1.png":
            with pytest.raises(DataError, match="may be the case 'kvasir/1' or 'clinic/1'"):
                names.find(spelled)
        else:
            assert names.find(spelled) == expected


def test_several_test_parts_leave_open_which_one_was_tested(tmp_path: Path) -> None:
    parts = {"train": IDS[:2], "val": IDS[2:3], "test-a": IDS[3:4], "test-b": IDS[4:]}
    found = bound(tmp_path / "a.json", parts)
    assert found.divisions[0].tested is None
    with pytest.raises(DataError, match="the parts train, val, test-a, test-b; expected one that begins with `test`"):
        found.folds()


def test_folds_beside_published_parts_are_the_folds(tmp_path: Path) -> None:
    rows = [f"{name},{'test' if i > 3 else 'train'},{i % 2 if i < 4 else ''}" for i, name in enumerate(IDS)]
    found = bound(tmp_path / "split.csv", table("id,split,fold", *rows))
    assert [fold.label for fold in found.split.folds] == ["fold 0 ", "fold 1 "] and found.split.assumed
    assert of_tests(found) == [{"case_0", "case_2"}, {"case_1", "case_3"}]
    assert found.notes == []


def test_repeats_keep_the_numbers_that_they_are_called_by(tmp_path: Path) -> None:
    for names, numbers in ((("1", "3"), [1, 3]), (("second", "first"), [1, 0])):
        rows = [f"{name},{repeat},{i % 2}" for repeat in names for i, name in enumerate(IDS)]
        split = read_split([write(tmp_path / "split.csv", table("id,repeat,fold", *rows))])
        by_name = {division.label.split()[1]: division.repeat for division in split.divisions}
        assert [by_name[name] for name in names] == numbers


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_tables_of_other_programs_are_understood_or_refused_with_advice(tmp_path: Path) -> None:
    tabs = write(tmp_path / "split.TSV", table("id\tsplit", "case_0\ttrain", "case_1\ttest"))
    assert of_tests(bind(read_split([tabs]), CASES)) == [{"case_1"}]
    with pytest.raises(DataError, match="separated by semicolons or tabs: save the file with commas"):
        bound(tmp_path / "split.csv", table("id;fold", "case_0;0"))
