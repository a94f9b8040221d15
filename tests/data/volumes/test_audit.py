"""The same scan on both sides of a split is found however it was stored; different scans are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medformer.data.audit import Audit, Division, audit, fold_divisions
from medformer.data.cases import Case
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.descriptors import descriptor
from medformer.data.volumes.inspect.similar import THRESHOLD, VOLUMES, similar_volumes
from medformer.data.volumes.read.layouts import scan_volumes
from medformer.errors import DataError, LeakageError

MakeCase = Callable[..., Case]


def scan(seed: int = 0, shape: tuple[int, int, int] = (40, 44, 36)) -> Any:
    rough = np.random.default_rng(seed).normal(size=shape)
    return (ndimage.gaussian_filter(rough, 2.5) * 900 + 300).astype(np.float32)


@dataclass(frozen=True)
class Fold:
    parts: dict[str, list[str]]


def audit_volumes(cases: Sequence[Case], *divisions: Division) -> Audit:
    return audit(cases, divisions, inspect_volumes(cases), VOLUMES)


COPIES: dict[str, Callable[[Any], Any]] = {
    "scale": lambda a: a * 2.5 + 40,
    "gamma": lambda a: (a - a.min() + 1) ** 0.6,
    "8 bit": lambda a: np.round((a - a.min()) / np.ptp(a) * 255).astype(np.uint8),
    "bias field": lambda a: a * np.linspace(0.7, 1.3, a.shape[1], dtype=np.float32)[:, None],
    "noise": lambda a: a + np.random.default_rng(9).normal(0, 0.1 * a.std(), a.shape),
    "finer": lambda a: ndimage.zoom(a, 1.5, order=1),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found(make_case: MakeCase, kind: str) -> None:
    cases = [make_case("a", scan()), make_case("b", COPIES[kind](scan()).astype(np.float32)), make_case("c", scan(1))]
    found = audit_volumes(cases, ("", {"train": ["a", "c"], "test": ["b"]}))
    assert [finding.name for finding in found.findings] == ["near-duplicate:a|b"]
    assert found.findings[0].score >= THRESHOLD == found.to_json()["near_duplicate_threshold"]
    with pytest.raises(LeakageError, match=str(cases[1].image)):
        found.raise_if_leaking()
    assert not audit_volumes(cases, ("", {"train": ["a", "b"], "test": ["c"]})).findings


def test_stored_with_other_axes_or_mirrored(make_case: MakeCase) -> None:
    turned = np.array([[0, 0, -1.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    original = make_case("a", scan())
    # Voxel (i, j, k) of this array lies along (back, up, left): the same anatomy as the first.
    same = make_case("b", np.ascontiguousarray(scan()[::-1, ::-1].transpose(1, 2, 0)), affine=turned)
    mirrored = make_case("c", np.ascontiguousarray(scan()[::-1]))
    matches = similar_volumes(list(inspect_volumes([original, same, mirrored]).arrays("descriptor").values()))
    assert [(match.first, match.second, match.mirrored) for match in matches] == [
        (0, 1, ""),
        (0, 2, "left-right"),
        (1, 2, "left-right"),
    ]


def test_file_voxels_and_patient(make_case: MakeCase) -> None:
    a, b = make_case("a", scan()), make_case("b", scan(), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    c, d = replace(a, id="c", group="c"), replace(make_case("d", scan(4)), group="a")
    found = audit_volumes(
        [a, b, c, d], *fold_divisions([Fold({"train": ["a"], "validation": [], "test": ["b", "c", "d"]})])
    )
    assert [finding.name for finding in found.findings] == ["group:a", "file:a|c", "voxels:a|b"]
    assert found.findings[0].part_a == "fold 0 train"
    assert set(found.kinds) == {"id", "group", "file", "voxels", "near-duplicate"}


def test_volumes_of_one_value_are_like_nothing(make_case: MakeCase) -> None:
    flat = np.full((20, 20, 20), 1e6, np.float32)
    assert not descriptor(flat).any()
    cases = [make_case("a", flat), make_case("b", flat + 1)]
    assert not audit_volumes(cases, ("", {"train": ["a"], "test": ["b"]})).findings


def test_an_unknown_case(make_case: MakeCase) -> None:
    with pytest.raises(DataError, match="'x'"):
        audit_volumes([make_case("a", scan())], ("", {"train": ["a"], "test": ["x"]}))


@pytest.fixture(scope="module")
def brains() -> list[Any]:
    """Brains without skulls in one space: nilearn's template, deformed by 2 mm, each with noise of its own."""
    datasets = pytest.importorskip("nilearn.datasets")
    gray, white = (
        np.asarray(load(resolution=4).dataobj, np.float32)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    made = []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        image = white * draw.uniform(0.8, 1.2) + 0.6 * gray * draw.uniform(0.8, 1.2)
        shifts = [ndimage.gaussian_filter(draw.normal(size=image.shape), 3) for _ in range(3)]
        places = np.indices(image.shape) + np.stack([0.5 * shift / shift.std() for shift in shifts])
        moved = ndimage.map_coordinates(image, places, order=1)
        made.append(((moved + draw.normal(0, 0.02, image.shape)) * (moved > 0.1)).astype(np.float32))
    return made


def test_different_brains_in_one_space_are_no_duplicates_and_copies_are(brains: list[Any]) -> None:
    descriptors = [descriptor(brain) for brain in brains]
    rows = np.stack([one.ravel() for one in descriptors])
    scores = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    assert (scores > THRESHOLD).mean() > 0.5, "alike beyond what a fixed threshold allows"
    assert similar_volumes(descriptors) == []
    copies = {
        "noise": brains[0] + np.random.default_rng(9).normal(0, 0.1 * brains[0].std(), brains[0].shape),
        "cropped": brains[0][1:-1, 1:-1, 1:-1],
        "saved again": np.round(brains[0] * 1000),
        "mirrored": brains[0][::-1],
    }
    for kind, copy in copies.items():
        (match,) = similar_volumes([*descriptors, descriptor(np.ascontiguousarray(copy, np.float32))])
        assert (match.first, match.second) == (0, len(brains)), kind
        assert "without what the" in match.evidence and match.mirrored == ("left-right" if kind == "mirrored" else "")


def test_copies_of_one_scan_are_found_where_there_is_nothing_else() -> None:
    noisy = [scan() + np.random.default_rng(seed).normal(0, 3, scan().shape).astype(np.float32) for seed in range(6)]
    assert len(similar_volumes([descriptor(one) for one in noisy])) == 15


@pytest.mark.real_data
def test_hippocampi_of_different_patients_stay_far_below_the_threshold(medformer_data: Path) -> None:
    cases = scan_volumes(medformer_data / "volumes" / "Task04_Hippocampus").cases
    rows = np.stack([array.ravel() for array in inspect_volumes(cases).arrays("descriptor").values()])
    scores = rows @ rows.T
    groups = np.array([case.group for case in cases])
    others = groups[:, None] != groups[None]
    assert scores[others].max() < THRESHOLD - 0.3
    # The other side of the same scan is more alike than other scans are: why such pairs share a group.
    np.fill_diagonal(others, True)
    assert np.median(scores[~others]) > np.quantile(scores[others], 0.9)
