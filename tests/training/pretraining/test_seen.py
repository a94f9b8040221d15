from __future__ import annotations

from pathlib import Path

import pytest

from medformer.errors import CheckpointError, LeakageError
from medformer.files import write_json, write_text
from medformer.training.pretraining.seen import SEEN_FILE, SeenCase, read_seen, require_untested, write_seen

TESTED = {"a": SeenCase("patient 1", "hash a"), "b": SeenCase("patient 2", "hash b")}


def test_what_was_seen_reads_back(tmp_path: Path) -> None:
    write_seen(tmp_path, TESTED)
    assert read_seen(tmp_path, "polyp") == TESTED


@pytest.mark.parametrize("key", ["image", "connections"])
def test_folders_of_earlier_versions_are_read(tmp_path: Path, key: str) -> None:
    write_json(tmp_path / SEEN_FILE, {name: {"group": case.group, key: case.sha256} for name, case in TESTED.items()})
    assert read_seen(tmp_path, "volume") == TESTED


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"a": 1}', '{"a": {}}', '{"a": {"group": "g"}}'])
def test_a_folder_that_does_not_say_what_was_seen_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write_text(tmp_path / SEEN_FILE, text)
    with pytest.raises(CheckpointError, match=r"pretraining.weights: .*missing or damaged.*`medformer abide pretrain`"):
        read_seen(tmp_path, "abide")


@pytest.mark.parametrize(
    ("name", "case", "reason"),
    [
        ("b", SeenCase("other", "other"), "same id as 'b'"),
        ("new", SeenCase("patient 1", "other"), "same group as 'a'"),
        ("new", SeenCase("other", "hash b"), "same data as 'b'"),
    ],
)
def test_pretraining_may_not_see_a_tested_case_by_id_group_or_data(name: str, case: SeenCase, reason: str) -> None:
    seen = {"fine": SeenCase("patient 3", "hash c"), name: case}
    with pytest.raises(LeakageError, match=rf"'{name}' of extra.csv is seen by pretraining and has the {reason}"):
        require_untested(TESTED, seen, "extra.csv")
    require_untested(TESTED, {"fine": seen["fine"]}, "extra.csv")
    unhashed = {"c": SeenCase("patient 4", "")}
    require_untested(unhashed, {"d": SeenCase("patient 5", "")}, "extra.csv")


@pytest.mark.parametrize("group", ["0050772", "50772", "sub-0050772"])
def test_a_person_is_one_whatever_zeros_stand_in_front(group: str) -> None:
    with pytest.raises(LeakageError, match="same group as 'a'"):
        require_untested({"a": SeenCase("0050772", "x")}, {"b": SeenCase(group, "y")}, "extra.csv")
