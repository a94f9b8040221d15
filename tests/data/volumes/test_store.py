from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_case import prepare_case

from medformer.data.cases import Case
from medformer.data.volumes.inspect.describe import file_hashes, inspect_volumes
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan
from medformer.data.volumes.prepare import store as store_module
from medformer.data.volumes.prepare.store import MAX_VOXELS, PreparedStore
from medformer.errors import DataError
from medformer.imaging.nifti_labels import write_labels

MakeCase = Callable[..., Case]

PLAN = VolumePlan(
    spacing=(1.0, 1.0, 1.0),
    intensity=(Intensity(),),
    labels=((1, "Head"), (4, "Tail"), (9, "Rare")),
    patch=(8, 8, 8),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    batch_size=2,
)


@pytest.fixture
def cases(make_case: MakeCase) -> list[Case]:
    made = []
    for number in range(3):
        image = np.random.default_rng(number).normal(size=(12 + number, 14, 10)).astype(np.float32)
        labels = np.zeros(image.shape, np.uint8)
        labels[2:5, 3:8, 2:7] = 1
        labels[7:10, 6:11, 3:8] = 4
        made.append(make_case(f"case{number}", image, labels))
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is prepared, `image` or `classes`, and of which case."""
    seen: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare(case: Case, *rest: Any) -> Any:
            seen.append(f"{name} {case.id}")
            return original(case, *rest)

        return prepare

    for name in ("image", "classes"):
        function = f"prepare_{name}"
        monkeypatch.setattr(store_module, function, watched(name, getattr(store_module, function)))
    return seen


def _store(folder: Path, cases: Sequence[Case], plan: VolumePlan = PLAN, **changes: Any) -> PreparedStore:
    return PreparedStore(folder / "prepared", plan, cases, **{"memory_gb": 1.0, **changes})


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_it_gives_what_preparing_gives(tmp_path: Path, cases: list[Case], memory: float) -> None:
    store = _store(tmp_path, cases, memory_gb=memory)
    for case in cases:
        found, expected = store[case.id], prepare_case(case, PLAN)
        assert found.id == case.id and np.array_equal(found.image, expected.image)
        assert expected.classes is not None and found.classes is not None
        assert np.array_equal(found.classes, expected.classes) and found.classes.dtype == np.uint8
        assert np.array_equal(found.affine, expected.affine) and np.array_equal(found.lowest, expected.lowest)
        assert found.source.shape == expected.source.shape
        assert np.array_equal(found.source.affine, expected.source.affine)


def test_memory_is_bounded(tmp_path: Path, cases: list[Case]) -> None:
    one = 12 * 14 * 10 * 5
    store = _store(tmp_path, cases, memory_gb=1.5 * one / 1e9)
    assert [isinstance(store[case.id].image, np.memmap) for case in cases] == [False, True, True]


def test_cases_are_prepared_once(tmp_path: Path, cases: list[Case], reads: list[str]) -> None:
    _store(tmp_path, cases)
    assert len(reads) == 6
    _store(tmp_path, cases[1:])
    _store(tmp_path, cases, replace(PLAN, patch=(16, 16, 16), batch_size=4, notes=("other",)))
    _store(tmp_path, cases, labels=False)
    assert len(reads) == 6


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"spacing": (1.0, 1.0, 2.0)}, {"image", "classes"}),
        ({"orientation": "LPS"}, {"image", "classes"}),
        ({"intensity": (Intensity("ct", 0.0, 1.0, 0.5, 0.2),)}, {"image"}),
        ({"labels": ((1, "Head"), (4, "Tail"))}, {"classes"}),
    ],
)
def test_what_a_plan_changes_is_prepared_again(
    tmp_path: Path, cases: list[Case], reads: list[str], change: dict[str, Any], again: set[str]
) -> None:
    before = _store(tmp_path, cases)["case0"]
    reads.clear()
    _store(tmp_path, cases, replace(PLAN, **change))
    assert {entry.split()[0] for entry in reads} == again
    assert np.array_equal(_store(tmp_path, cases)["case0"].image, before.image)


def test_a_changed_file_is_prepared_again(
    tmp_path: Path, cases: list[Case], make_case: MakeCase, reads: list[str]
) -> None:
    _store(tmp_path, cases)
    reads.clear()
    labels = np.zeros((13, 14, 10), np.uint8)
    labels[0] = 9
    make_case("case1", np.zeros((13, 14, 10), np.float32), labels)
    assert (_store(tmp_path, cases)["case1"].image == 0.0).all()
    assert reads == ["image case1", "classes case1"]


def test_a_stop_half_way_costs_only_what_was_not_done(tmp_path: Path, cases: list[Case], reads: list[str]) -> None:
    broken = replace(cases[2], mask=cases[2].image)
    with pytest.raises(DataError, match="case2"):
        _store(tmp_path, [*cases[:2], broken])
    reads.clear()
    _store(tmp_path, cases)
    assert reads == ["classes case2"]


def test_a_damaged_file_is_prepared_again(tmp_path: Path, cases: list[Case], reads: list[str]) -> None:
    before = np.array(_store(tmp_path, cases)["case0"].image)
    for pattern, what in (("*.image.npy", "image"), ("*.json", "image"), ("*s.npy", "classes")):
        for path in (tmp_path / "prepared").glob(pattern):
            path.write_bytes(path.read_bytes()[:100])
        reads.clear()
        assert np.array_equal(_store(tmp_path, cases)["case0"].image, before)
        assert reads == [f"{what} case0", f"{what} case1", f"{what} case2"]


def test_a_copy_for_another_process_carries_no_voxels(tmp_path: Path, cases: list[Case]) -> None:
    store = _store(tmp_path, cases)
    content = pickle.dumps(store)
    assert len(content) < 8000
    copy: PreparedStore = pickle.loads(content)
    assert isinstance(copy["case2"].image, np.memmap)
    assert np.array_equal(copy["case2"].image, store["case2"].image)
    assert {key: value.tolist() for key, value in copy.voxels("case2").items()} == {
        key: value.tolist() for key, value in store.voxels("case2").items()
    }


def test_files_that_vanish_meanwhile_are_named(tmp_path: Path, cases: list[Case]) -> None:
    copy = pickle.loads(pickle.dumps(_store(tmp_path, cases)))
    for path in (tmp_path / "prepared").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"Case 'case0'.*--resume"):
        copy["case0"]
    with pytest.raises(DataError, match="'other' is not among the 3"):
        copy["other"]


def test_voxels_are_those_of_the_classes(tmp_path: Path, cases: list[Case]) -> None:
    store = _store(tmp_path, cases)
    classes = store["case1"].classes
    assert classes is not None
    found = store.voxels("case1")
    assert set(found) == {1, 2}
    for label, places in found.items():
        assert np.array_equal(places, np.flatnonzero(classes == label))
    assert _store(tmp_path, cases, labels=False).voxels("case1") == {}


def test_of_a_large_label_a_sample_is_remembered(tmp_path: Path, make_case: MakeCase) -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[1:] = 1
    labels[0, 0, 0] = 9
    case = make_case("large", np.zeros(labels.shape, np.float32), labels)
    found = _store(tmp_path, [case]).voxels("large")
    assert len(found[1]) == MAX_VOXELS == len(set(found[1].tolist())) and found[3].tolist() == [0]
    assert (labels.reshape(-1)[found[1]] == 1).all()
    # From everywhere, not from one end.
    assert np.abs(np.mean(found[1]) / labels.size - 0.5) < 0.05


def test_known_hashes_belong_to_files_and_not_to_cases(tmp_path: Path, cases: list[Case], reads: list[str]) -> None:
    hashes = file_hashes(inspect_volumes(cases))
    before = _store(tmp_path, cases)["case0"].classes
    assert before is not None
    reads.clear()
    assert np.array_equal(_store(tmp_path, cases, hashes=hashes)["case0"].classes, before)
    assert reads == [], "the same keys as without them"
    other = tmp_path / "other.nii.gz"
    write_labels(other, np.zeros(before.shape, np.uint8), cases[0].images[0])
    moved = _store(tmp_path, [replace(cases[0], mask=other)], hashes=hashes)["case0"].classes
    assert moved is not None and before.any() and not moved.any()
