"""One rule says who is who, and it never guesses between two people."""

from __future__ import annotations

import pytest

from medformer.data.people import column_name, match_people, plain
from medformer.errors import DataError


@pytest.mark.parametrize("text", ["sub-0050772", "0050772", "50772", "50772.0", " 50772 "])
def test_spellings_of_one_number(text: str) -> None:
    assert plain(text) == "50772"
    assert match_people(["0050772", "50773"], [text], "files") == {text: "0050772"}
    assert match_people([text], ["sub-50772_ses-1", "50773"], "files") == {"sub-50772_ses-1": text}


@pytest.mark.parametrize(
    ("text", "form"),
    [("sub-01_ses-02", "1_ses-02"), ("NYU_0050954", "NYU_0050954"), ("000", "0"), ("s01", "s01"), ("1.5", "1.5")],
)
def test_only_zeros_in_front_of_a_number_are_dropped(text: str, form: str) -> None:
    assert plain(text) == form


def test_equal_texts_come_first() -> None:
    assert match_people(["1", "01"], ["1", "01"], "files") == {"1": "1", "01": "01"}
    assert match_people(["01_02", "01", "2"], ["01_02", "01_03"], "files") == {"01_02": "01_02", "01_03": "01"}
    assert match_people(["S_1"], ["S_10", "S", "other"], "files") == {}
    assert match_people(["a"], ["a_1"], "files", whole=True) == {}


@pytest.mark.parametrize(
    ("known", "names", "both"),
    [(["50001", "0050001"], ["sub-50001"], "'50001' or '0050001'"), (["1"], ["1", "01"], "'1' and '01'")],
)
def test_two_people_are_never_guessed_between(known: list[str], names: list[str], both: str) -> None:
    with pytest.raises(DataError, match=both):
        match_people(known, names, "files")


def test_names_of_columns() -> None:
    assert [column_name(text) for text in ("SUB_ID", " Participant ID", "subject-id")] == [
        "sub_id",
        "participant_id",
        "subject_id",
    ]
