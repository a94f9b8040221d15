"""Names of files: valid on every file system, different for different ids, and read back."""

from __future__ import annotations

import re
import unicodedata
from itertools import product
from pathlib import Path
from urllib.parse import unquote

import pytest

from medformer.files import is_temporary
from medformer.names import LONGEST_ID, file_stem, file_stems, id_fault, shown

ODD = [
    "p0 2024-03-01 10:22:07",
    'what? <a|b> "c" * 100%',
    ".frame.patient1",
    ".medformer-tmp-1-0123456789abcdef-a",
    "CON",
    "site/aux.v2",
    "com1",
    "ends.",
    "ends ",
    " begins",
    "a.png/b",
    "A.NII.GZ/b",
    "Größe 3 µm",
    "zero\u200bwidth",
    "non\u202fbreaking",
    "%41",
    "~",
    "-rf",
    "=1+1",
]


@pytest.mark.parametrize("identifier", ["a", "kvasir/cju0", "frame 7 (2)", "a.b-c_d", "Größe", "p002_f01", "2.nii"])
def test_an_ordinary_id_is_the_name(identifier: str) -> None:
    assert file_stem(identifier) == identifier
    assert id_fault(identifier) is None


@pytest.mark.parametrize("identifier", ODD)
def test_a_name_is_valid_everywhere_and_gives_the_id_back(identifier: str, tmp_path: Path) -> None:
    assert id_fault(identifier) is None
    stem = file_stem(identifier)
    assert unquote(stem) == identifier
    for part in f"{stem}.png".split("/"):
        assert re.fullmatch(r'[^<>:"\\|?*]+', part) and part.isprintable()
        assert part[0] != "." and part[-1] not in ". "
        assert part.split(".")[0].upper() not in {"CON", "AUX", "COM1"}
        assert not is_temporary(part)
    path = tmp_path / f"{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_no_two_of_many_ids_share_a_file_or_stand_in_each_others_way(tmp_path: Path) -> None:
    letters = ["a", "A", "e\u0301", "\u00e9", "\u00c9", "ß", "ss", "%41", "a.png", "A.PNG", "long" * 100, "long" * 101]
    pairs = ["/".join(pair) for pair in product(letters, ["b", "B"])]
    ids = list(dict.fromkeys([*letters, *pairs, *ODD]))
    stems = file_stems(ids)
    folded = {unicodedata.normalize("NFC", stem).casefold() for stem in stems.values()}
    assert len(folded) == len(ids)
    for stem in stems.values():
        path = tmp_path / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stem)
    assert sorted(path.read_text() for path in tmp_path.rglob("*.png") if path.is_file()) == sorted(stems.values())
    assert [stem for name, stem in stems.items() if "long" not in name and unquote(stem) != name] == []


def test_only_the_ids_that_clash_change_their_names() -> None:
    assert file_stems(["P1", "p2"]) == {"P1": "P1", "p2": "p2"}
    assert file_stems(["P1", "p1", "P2"]) == {"P1": "%501", "p1": "p1", "P2": "P2"}
    assert file_stems(["a"], "repeat-1") == {"a": "repeat-1/a"}


@pytest.mark.parametrize(
    ("identifier", "fault"),
    [
        ("", "empty"),
        ("NA", "not known"),
        ("a\x07", "control"),
        ("a\nb", "control"),
        ("a\u2028b", "line end"),
        ("caf\udce9", "not UTF-8"),
        ("x" * (LONGEST_ID + 1), "1001 characters"),
        ("../a", "parts"),
        ("/a", "parts"),
        ("a\\b", "may not hold"),
    ],
)
def test_what_cannot_be_an_id_is_said(identifier: str, fault: str) -> None:
    assert fault in str(id_fault(identifier))


@pytest.mark.parametrize("text", ["caf\u00e9 2.45\u202fPM", "\u3000a", "two\nlines and\ta tab"])
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_what_could_control_a_terminal_is_shown_as_a_code() -> None:
    assert shown("a\x1b[31mb\x07\u202egnp.\udce9") == "a\\x1b[31mb\\x07\\u202egnp.\\udce9"
