"""A check names what is wrong with a cohort that somebody edited or put together by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medformer.data.cases import Case
from medformer.data.connectomes import check as module
from medformer.data.connectomes.check import check_cohort, cohort_traits, inspect_cohort
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.store import StoredAtlas, StoreWriter, open_store
from medformer.errors import DataError


def cohort(folder: Path, subjects: list[Case], change: dict[str, np.ndarray], regions: int = 4) -> Cohort:
    names = tuple(map(str, range(regions)))
    atlas = "mine" if regions == 4 else "dos160"
    with StoreWriter(folder, {atlas: StoredAtlas(regions, "series", names)}) as writer:
        for seed, subject in enumerate(subjects):
            series = np.random.default_rng(seed).normal(size=(9, regions))
            writer.add(subject.id, {atlas: change.get(subject.id, series)})
    return Cohort(folder / "manifest.csv", folder, tuple(subjects), open_store(folder))


def people(count: int) -> list[Case]:
    return [Case(f"s{n}", group=f"p{n}", site="A", label=n % 2) for n in range(count)]


def found(checked: Cohort) -> list[tuple[str, str, str]]:
    return [(one.case_id, one.severity, one.reason) for one in check_cohort(checked)]


def test_nothing_is_wrong(tmp_path: Path) -> None:
    assert found(cohort(tmp_path, people(4), {})) == []


def test_data(tmp_path: Path) -> None:
    first = np.random.default_rng(0).normal(size=(9, 4))
    holes, still = first.copy() + 1, first.copy() + 2
    holes[1, 1] = np.nan
    still[:, 2] = 5
    given = {"s1": holes, "s2": first, "s3": still, "s4": first[:4] + 3}
    assert found(cohort(tmp_path, people(5), given)) == [
        ("s1", "error", "not-finite"),
        ("s2", "error", "same-connectome"),
        ("s3", "warning", "constant-regions"),
        ("s4", "warning", "few-time-points"),
    ]


def test_what_new_subjects_are_compared_by(tmp_path: Path) -> None:
    still = np.random.default_rng(0).normal(size=(7, 4))
    still[:, 2] = 5
    subjects = [replace(people(1)[0], covariates={"mean_fd": "0.25"}), *people(2)[1:]]
    assert cohort_traits(cohort(tmp_path, subjects, {"s1": still})) == {
        "s0": {
            "mean framewise displacement in mm": 0.25,
            "regions of mine without a signal": 0.0,
            "time points": 9.0,
        },
        "s1": {"regions of mine without a signal": 1.0, "time points": 7.0},
    }


def test_persons(tmp_path: Path) -> None:
    subjects = [
        Case("a", group="p1", site="A", label=1),
        Case("b", group="p1", site="B", label=1),
        Case("c", group="p2", site="A", label=1),
        Case("d", group="p2", site="A", label=0),
        Case("e", group="p3", site="A"),
        Case("f", group="p3", site="A"),
    ]
    problems = check_cohort(cohort(tmp_path, subjects, {}))
    assert [(one.case_id, one.reason) for one in problems] == [
        ("c", "label-conflict"),
        ("d", "label-conflict"),
        ("a", "two-sites"),
        ("b", "two-sites"),
    ]
    assert "p2 has the labels 1 and 0" in problems[0].detail
    assert "p1 is listed at A and B" in problems[2].detail


def test_the_number_of_regions(tmp_path: Path) -> None:
    problems = check_cohort(cohort(tmp_path, people(2), {}, regions=160))
    assert [one.reason for one in problems if one.severity == "error"] == ["region-count", "region-count"]
    assert "expected 161" in problems[0].detail


def test_one_pass_gives_problems_hashes_and_descriptors(tmp_path: Path) -> None:
    still = np.random.default_rng(7).normal(size=(9, 4))
    still[:, 2] = 5
    checked = cohort(tmp_path, people(3), {"s2": still})
    records = inspect_cohort(checked)
    assert list(records) == ["s0", "s1", "s2"]
    assert records.problems == check_cohort(checked)
    assert len({record.hashes["connections"] for record in records.values()}) == 3
    rows = checked.store.block("mine", "correlation")
    np.testing.assert_array_equal(records["s1"].arrays["descriptor"], rows[1])


def test_no_connections_are_computed_while_a_subject_cannot_be_used(tmp_path: Path) -> None:
    holes = np.full((9, 4), np.nan)
    records = inspect_cohort(cohort(tmp_path, people(2), {"s1": holes}))
    assert [problem.reason for problem in records.problems] == ["not-finite"]
    assert not records["s0"].hashes
    with pytest.raises(DataError, match="'s1' cannot be used"):
        records["s1"].array("descriptor")


def test_an_unchanged_cohort_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = np.random.default_rng(7).normal(size=(9, 4))
    still[:, 2] = 5
    checked = cohort(tmp_path / "data", people(3), {"s2": still})
    first = inspect_cohort(checked, cache=tmp_path / "cache")
    monkeypatch.setattr(module, "check_cohort", None)
    again = inspect_cohort(checked, cache=tmp_path / "cache")
    assert again.problems == first.problems
    assert [record.hashes for record in again.values()] == [record.hashes for record in first.values()]
    np.testing.assert_array_equal(again["s1"].array("descriptor"), first["s1"].array("descriptor"))

    moved = replace(checked, cases=(replace(checked.cases[0], site="elsewhere"), *checked.cases[1:]))
    with pytest.raises(TypeError):
        inspect_cohort(moved, cache=tmp_path / "cache")
