from __future__ import annotations

from pathlib import Path

import pytest

from medformer.errors import DataError
from medformer.inference.export_table import output_names, require_id


def test_unique_stems_name_their_outputs() -> None:
    assert output_names([Path("/a/x.png"), Path("/b/y.v2.jpg")]) == ["x", "y.v2"]
    assert output_names([]) == []


def test_equal_stems_from_different_folders_keep_their_folders() -> None:
    paths = [Path("/d/site_a/f1.png"), Path("/d/site_b/f1.png"), Path("/d/site_b/deep/f2.jpg")]
    assert output_names(paths) == ["site_a/f1", "site_b/f1", "site_b/deep/f2"]


def test_the_same_path_but_for_its_suffix_cannot_be_told_apart() -> None:
    with pytest.raises(DataError, match=r"/d/f1\.png and /d/f1\.jpg would both be exported as 'f1'"):
        output_names([Path("/d/f1.png"), Path("/d/f0.png"), Path("/d/f1.jpg")])


def test_names_that_differ_in_capital_letters_are_different_ids() -> None:
    assert output_names([Path("/d/F1.png"), Path("/d/f1.png")]) == ["F1", "f1"]


@pytest.mark.parametrize("name", ["", "..", "a\nb", "na", "a\\b", "caf\udce9"])
def test_a_file_whose_name_cannot_be_an_id_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="cannot be exported"):
        require_id(name)
