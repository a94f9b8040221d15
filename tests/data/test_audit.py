"""A leaked split fails, naming both files; what the user accepts by name is let through and recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medformer.data.audit import Audit, SplitFold, audit, fold_divisions, write_findings
from medformer.data.cases import Case
from medformer.data.frames.describe import inspect_frames
from medformer.data.frames.descriptors import FRAMES
from medformer.data.frames.layouts import scan
from medformer.data.near_duplicates import link_near_duplicates
from medformer.data.problems import Problem
from medformer.errors import ConfigError, DataError, LeakageError


def scene(seed: int) -> Image.Image:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((120, 120, 3)), (6, 6, 0))
    return Image.fromarray(np.clip(130 + noise / noise.std() * 40, 0, 255).astype(np.uint8))


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Six different pictures of six patients at two sites."""
    made = []
    for index in range(6):
        path = tmp_path / f"{index}.png"
        scene(index).save(path)
        site = "north" if index < 4 else "south"
        made.append(Case(f"{site}/{index}", path, None, f"patient {index}", site))
    return made


def with_picture(cases: list[Case], index: int, picture: Image.Image, **options: object) -> list[Case]:
    changed = list(cases)
    path = cases[index].image.with_name(f"new_{index}.{options.pop('suffix', 'png')}")
    picture.save(path, **options)
    changed[index] = replace(cases[index], image=path)
    return changed


def parts(cases: list[Case]) -> dict[str, list[str]]:
    return {"train": [case.id for case in cases[:3]], "test": [case.id for case in cases[3:]]}


@dataclass(frozen=True)
class Fold:
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def audit_split(cases: Sequence[Case], split: Mapping[str, Sequence[str]], cache: Path | None = None) -> Audit:
    return audit(cases, [("", split)], inspect_frames(cases, cache=cache), FRAMES)


def audit_folds(cases: Sequence[Case], folds: Sequence[SplitFold]) -> Audit:
    return audit(cases, fold_divisions(folds), inspect_frames(cases), FRAMES)


def test_a_clean_split_passes(cases: list[Case]) -> None:
    found = audit_split(cases, parts(cases))
    found.raise_if_leaking()
    assert found.findings == ()
    assert found.to_json()["parts"] == {"train": 3, "test": 3}


def test_one_group_on_both_sides(cases: list[Case]) -> None:
    cases[4] = replace(cases[4], group="patient 1")
    found = audit_split(cases, parts(cases))
    assert [finding.name for finding in found.findings] == ["group:patient 1"]
    assert found.findings[0].detail == "1 case in train, 1 case in test"
    with pytest.raises(LeakageError) as caught:
        found.raise_if_leaking()
    for said in ("1 finding on both sides", str(cases[1].image), str(cases[4].image), "--accept-leak"):
        assert said in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        ({}, "file"),
        ({"compress_level": 1}, "pixels"),
        ({"suffix": "jpg", "quality": 60}, "near-duplicate"),
    ],
)
def test_the_same_picture_under_another_patient(cases: list[Case], copy: dict[str, object], kind: str) -> None:
    cases = with_picture(cases, 5, scene(0), **copy)
    found = audit_split(cases, parts(cases))
    assert [finding.name for finding in found.findings] == [f"{kind}:north/0|south/5"]
    finding = found.findings[0]
    assert finding.files == (str(cases[0].image), str(cases[5].image))
    assert {finding.part_a, finding.part_b} == {"train", "test"}


def test_a_mirrored_crop_of_a_training_picture(cases: list[Case]) -> None:
    mirrored = scene(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((4, 3, 115, 116)).resize((80, 80))
    cases = with_picture(cases, 3, mirrored)
    finding = audit_split(cases, parts(cases)).findings[0]
    assert (finding.kind, finding.site) == ("near-duplicate", "north")
    assert "mirrored left-right" in finding.detail


def test_copies_on_the_same_side_are_no_leak(cases: list[Case]) -> None:
    cases = with_picture(cases, 1, scene(0))
    assert audit_split(cases, parts(cases)).findings == ()


def test_the_same_case_on_both_sides(cases: list[Case]) -> None:
    split = parts(cases)
    split["test"].append("north/1")
    assert "id:north/1|north/1" in [finding.name for finding in audit_split(cases, split).findings]


@pytest.mark.parametrize("name", ["near-duplicate:north/0|north/3", "near-duplicate:north", "near-duplicate:*"])
def test_accepting_by_name_lets_it_through_and_records_it(cases: list[Case], name: str) -> None:
    cases = with_picture(cases, 3, scene(0), suffix="jpg", quality=80)
    found = audit_split(cases, parts(cases)).accepting([name])
    found.raise_if_leaking()
    content = json.loads(json.dumps(found.to_json()))
    assert content["accepted"] == [name]
    assert content["leaks"] == 0
    assert [(finding["kind"], finding["accepted"]) for finding in content["findings"]] == [("near-duplicate", True)]


def test_accepting_one_finding_does_not_accept_another(cases: list[Case]) -> None:
    cases = with_picture(cases, 3, scene(0), suffix="jpg", quality=80)
    cases = with_picture(cases, 4, scene(1), suffix="jpg", quality=80)
    found = audit_split(cases, parts(cases)).accepting(["near-duplicate:north", "group:nobody"])
    with pytest.raises(LeakageError, match=r"north/1\|south/4") as caught:
        found.raise_if_leaking()
    assert "north/3" not in str(caught.value)
    assert found.to_json()["accepted_but_not_found"] == ["group:nobody"]


@pytest.mark.parametrize("name", ["", "duplicate:*", "near-duplicate", "near-duplicate:"])
def test_names_that_no_finding_can_have(cases: list[Case], name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a leakage finding"):
        audit_split(cases, parts(cases)).accepting([name])


def test_only_the_first_ten_are_shown(tmp_path: Path) -> None:
    scene(0).save(tmp_path / "a.png")
    many = [Case(f"c{index:02d}", tmp_path / "a.png", None, f"g{index}") for index in range(12)]
    found = audit_split(many, {"train": ["c00"], "test": [case.id for case in many[1:]]})
    with pytest.raises(LeakageError, match=r"11 findings(.|\n)*c00\|c10(.|\n)*and 1 more"):
        found.raise_if_leaking()


def test_folds_compare_what_is_learnt_from_with_what_is_tested(cases: list[Case]) -> None:
    cases = with_picture(cases, 5, scene(1), suffix="jpg", quality=80)
    ids = [case.id for case in cases]
    folds = [
        Fold((ids[0],), (ids[1], ids[5]), (ids[2],)),
        Fold((ids[0], ids[2]), (ids[1],), (ids[5],)),
        Fold((ids[5], ids[2]), (ids[0],), (ids[1],)),
    ]
    found = audit_folds(cases, folds)
    assert [finding.name for finding in found.findings] == ["near-duplicate:north/1|south/5"]
    assert {found.findings[0].part_a, found.findings[0].part_b} == {"fold 1 train", "fold 1 test"}
    assert audit_folds(cases, folds[:1]).findings == ()


def test_a_split_of_unknown_cases(cases: list[Case]) -> None:
    with pytest.raises(DataError, match="such as 'nobody'"):
        audit_split(cases, {"train": ["nobody"], "test": [cases[0].id]})


def test_a_picture_that_cannot_be_decoded_is_named(cases: list[Case]) -> None:
    cases[2].image.write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png is an empty file"):
        audit_split(cases, parts(cases))


def test_no_file_is_opened_for_the_audit(cases: list[Case]) -> None:
    records = inspect_frames(cases)
    for case in cases:
        case.image.unlink()
    assert audit(cases, [("", parts(cases))], records, FRAMES).findings == ()


def test_everything_is_written_to_one_file(cases: list[Case], tmp_path: Path) -> None:
    cases = with_picture(cases, 3, scene(0), suffix="jpg", quality=80)
    problem = Problem("north/0", "0.png", "wrong-mode")
    write_findings(tmp_path / "audit.json", audit_split(cases, parts(cases)), [problem])
    content = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert content["problems"] == [
        {"id": "north/0", "severity": "warning", "reason": "wrong-mode", "detail": "", "path": "0.png"}
    ]
    (finding,) = content["findings"]
    assert list(finding) == ["name", "kind", "a", "b", "part_a", "part_b", "files", "score", "detail", "accepted"]
    assert finding["files"] == [str(cases[0].image), str(cases[3].image)]
    assert finding["score"] == round(finding["score"], 4) < 1


def test_linked_duplicates_share_a_group_and_no_longer_leak(cases: list[Case]) -> None:
    cases = with_picture(cases, 3, scene(0), suffix="jpg", quality=80)
    cases = with_picture(cases, 4, scene(2))
    cases[0] = replace(cases[0], group="")
    cases[1] = replace(cases[1], group="")
    linked = link_near_duplicates(cases, inspect_frames(cases), FRAMES)
    assert [case.group for case in linked] == ["north/0", "", "patient 2", "north/0", "patient 2", "patient 5"]
    assert [case.id for case in linked] == [case.id for case in cases]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps what was found in the frames of real data, so that they are read once."""
    return tmp_path_factory.mktemp("described")


@pytest.mark.real_data
def test_pranets_split_of_clinicdb_separates_neighboring_frames(medformer_data: Path, described: Path) -> None:
    found = scan([medformer_data / "polyp" / "CVC-ClinicDB", medformer_data / "polyp" / "Kvasir-SEG"], split="pranet")
    split = {part: [c.id for c in found.cases if c.split == part] for part in ("train", "test")}
    audited = audit_split(found.cases, split, described)
    kinds = [(finding.kind, finding.site) for finding in audited.findings]
    assert kinds.count(("group", "CVC-ClinicDB")) == 26
    assert kinds.count(("near-duplicate", "CVC-ClinicDB")) > 100
    assert kinds.count(("near-duplicate", "Kvasir-SEG")) == 2
    assert all(site for _, site in kinds), "pictures of different datasets were taken for near-duplicates"
    groups = {case.id: case.group for case in found.cases}
    for finding in audited.findings:
        if finding.site == "CVC-ClinicDB":
            assert groups[finding.a] == groups[finding.b], f"{finding.name} crosses sequences"


@pytest.mark.real_data
def test_the_split_by_sequence_is_clean(medformer_data: Path, described: Path) -> None:
    found = scan(medformer_data / "polyp" / "CVC-ClinicDB", split="clinicdb-sequences")
    assert found.problems == ()
    split = {part: [c.id for c in found.cases if c.split == part] for part in ("train", "test")}
    audit_split(found.cases, split, described).raise_if_leaking()


@pytest.mark.parametrize("spelled", ["001", "1.0", "site/1", "SITE/01"])
def test_one_patient_spelled_in_two_ways_is_on_both_sides(cases: list[Case], spelled: str) -> None:
    first = "site/1" if "/" in spelled else "1"
    cases[0], cases[4] = replace(cases[0], group=first), replace(cases[4], group=spelled)
    found = audit_split(cases, parts(cases))
    assert [finding.name for finding in found.findings] == [f"group:{first}"]
    assert (f"also spelled {spelled}" in found.findings[0].detail) == (spelled != first)


def test_cases_of_their_own_groups_are_no_patients_spelled_in_two_ways(cases: list[Case]) -> None:
    cases[0] = replace(cases[0], id="1", group="1")
    cases[4] = replace(cases[4], id="01", group="01")
    assert audit_split(cases, parts(cases)).findings == ()
