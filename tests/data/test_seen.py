"""What networks have seen before a run: written, read, and found again among the tested cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.data.audit import Audit
from medformer.data.cases import Case
from medformer.data.frames.descriptors import FRAMES, descriptor
from medformer.data.near_duplicates import CaseComparison
from medformer.data.seen import SEEN_FILE, SeenCase, find_seen, read_seen, require_same_seen, write_seen
from medformer.errors import CheckpointError, DataError, LeakageError
from medformer.files import write_json, write_text

CASES = [SeenCase("a", "patient 1", {"file": "hash a"}), SeenCase("b", "patient 2", {"file": "hash b"})]


def by_hashes(*kinds: str) -> CaseComparison:
    return CaseComparison(kinds, lambda descriptors, parts: [], 1.0)


def found(*seen: SeenCase, kinds: tuple[str, ...] = ("file", "pixels")) -> list[tuple[str, str, str]]:
    tested = [(Case(case.id, Path(f"{case.id}.png"), group=case.group), case, "fold 0 test") for case in CASES]
    return [(finding.kind, finding.a, finding.detail) for finding in find_seen(tested, seen, by_hashes(*kinds))]


def test_what_was_seen_reads_back(tmp_path: Path) -> None:
    write_seen(tmp_path, CASES)
    read = read_seen(tmp_path, "polyp")
    assert [(case.id, case.group, case.hashes) for case in read] == [(c.id, c.group, c.hashes) for c in CASES]
    assert {case.where for case in read} == {f"pretraining in {tmp_path.name}"}


@pytest.mark.parametrize("key", ["sha256", "image", "connections"])
def test_folders_of_earlier_versions_are_read(tmp_path: Path, key: str) -> None:
    write_json(tmp_path / SEEN_FILE, {case.id: {"group": case.group, key: case.hashes["file"]} for case in CASES})
    kind = "connections" if key == "connections" else "file"
    assert [case.hashes[kind] for case in read_seen(tmp_path, "volume")] == ["hash a", "hash b"]
    if kind == "file":
        require_same_seen(tmp_path, CASES)
        with pytest.raises(DataError, match="'b'"):
            require_same_seen(tmp_path, [CASES[0], SeenCase("b", "patient 2", {"file": "other"})])
    with pytest.raises(DataError, match="the first is 'b'"):
        require_same_seen(tmp_path, CASES[:1])


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"a": 1}', '{"a": {}}', '{"a": {"group": "g"}}'])
def test_a_folder_that_does_not_say_what_was_seen_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write_text(tmp_path / SEEN_FILE, text)
    with pytest.raises(CheckpointError, match=r"pretraining.weights: .*missing or damaged.*`medformer abide pretrain`"):
        read_seen(tmp_path, "abide")


def test_a_tested_case_is_recognized_by_data_group_or_id() -> None:
    fine = SeenCase("fine", "patient 3", {"file": "hash c"})
    assert found(fine) == []
    assert found(fine, SeenCase("new", "other", {"file": "hash b"})) == [("seen-data", "b", "the same file")]
    assert found(SeenCase("new", "patient 1", {"file": "other"})) == [("seen-group", "a", "the same group 'patient 1'")]
    assert found(SeenCase("b", "other", {"file": "other"})) == [("seen-id", "b", "the same id, with other data")]
    assert found(SeenCase("b", "other")) == [("seen-id", "b", "the same id")]
    # Without a group or a hash nothing is known by them.
    assert found(SeenCase("x")) == []


def test_one_finding_for_a_case_with_the_strongest_evidence() -> None:
    everything = SeenCase("a", "patient 1", {"pixels": "p", "file": "hash a"}, "fold 0 of run")
    tested = (Case("a", Path("a.png"), site="north"), SeenCase("a", "patient 1", everything.hashes), "fold 2 test")
    (finding,) = find_seen([tested], [everything], FRAMES)
    assert (finding.kind, finding.detail) == ("seen-data", "the same file")
    assert (finding.part_a, finding.part_b) == ("fold 2 test", "seen by fold 0 of run")
    assert finding.acceptable_as == ("seen-data:a|a", "seen-data:north", "seen-data:*")


def test_a_case_without_a_name_is_called_by_its_hash() -> None:
    assert [
        f.b
        for f in find_seen([(Case("a", Path("a")), CASES[0], "test")], [SeenCase("", "", {"file": "hash a"})], FRAMES)
    ] == ["image hash a"]


@pytest.mark.parametrize("group", ["0050772", "50772", "sub-0050772"])
def test_a_person_is_one_whatever_zeros_stand_in_front(group: str) -> None:
    tested = [(Case("a", None), SeenCase("a", "0050772", {"connections": "x"}), "test")]
    seen = [SeenCase("b", group, {"connections": "y"})]
    assert [f.kind for f in find_seen(tested, seen, by_hashes("connections"))] == ["seen-group"]


def picture(seed: int) -> Image.Image:
    """Colored blobs."""
    colors = np.random.default_rng(seed).integers(40, 255, (7, 9, 3), np.uint8)
    return Image.fromarray(colors).resize((320, 240), Image.Resampling.BICUBIC)


def shown(name: str, image: Image.Image, where: str = "") -> SeenCase:
    return SeenCase(name, name, {"pixels": name}, where, descriptor(np.asarray(image)))


def test_a_picture_that_was_changed_is_recognized_by_what_it_shows(tmp_path: Path) -> None:
    write_seen(tmp_path, [shown(str(seed), picture(seed)) for seed in range(4)])
    seen = read_seen(tmp_path, "polyp")
    small = picture(2).resize((150, 120)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rows = [
        (Case(one.id, Path(f"{one.id}.png")), one, "fold 0 test")
        for one in (shown("new", picture(9)), shown("changed", small))
    ]
    (finding,) = find_seen(rows, seen, FRAMES)
    assert (finding.kind, finding.a, finding.b) == ("seen-near-duplicate", "changed", "2")
    assert finding.score > 0.9 and "mirrored left-right" in finding.detail
    assert finding.part_b == f"seen by pretraining in {tmp_path.name}"
    # Where there are no descriptors, nothing is said to have been looked for.
    audit = Audit(2, {}, (), kinds=("id",))
    assert finding.kind in audit.with_seen([finding], described=True).to_json()["looked_for"]
    assert finding.kind not in audit.with_seen([]).to_json()["looked_for"]


@pytest.mark.parametrize("packed", [1, {}, {"shape": [2], "scale": 1.0, "int8": "AA=="}, {"shape": [1], "int8": "?"}])
def test_a_damaged_descriptor_is_refused(tmp_path: Path, packed: object) -> None:
    write_json(tmp_path / SEEN_FILE, {"a": {**CASES[0].to_json(), "descriptor": packed}})
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_seen(tmp_path, "polyp")


def test_a_seen_case_is_a_leak_until_it_is_accepted_by_its_name() -> None:
    tested = [(Case(case.id, Path(f"{case.id}.png")), case, "fold 0 test") for case in CASES]
    audit = Audit(2, {}, (), kinds=("id", "group", "file")).with_seen(find_seen(tested, [CASES[1]], FRAMES))
    with pytest.raises(
        LeakageError, match=r"1 finding \(1 seen-data\)(.|\n)*seen-data:b\|b(.|\n)*Start from a network"
    ):
        audit.raise_if_leaking()
    audit.accepting(["seen-data:b|b"]).raise_if_leaking()
    assert "seen-group" in audit.to_json()["looked_for"]
