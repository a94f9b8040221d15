"""Connectomes on both sides of a split: the same subject, the same data, two scans of one brain."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_connectomes import synthetic_connectomes

from medformer.crossval.plan import Fold
from medformer.data.audit import Audit, audit, fold_divisions
from medformer.data.cases import Case
from medformer.data.connectomes.check import CONNECTOMES, similar_connectomes
from medformer.data.inventory import Record
from medformer.errors import LeakageError

IDS = [f"s{number}" for number in range(20)]
CASES = [Case(name, group=name, site="a") for name in IDS]
FOLDS = [Fold(0, tuple(IDS[:8]), tuple(IDS[8:12]), tuple(IDS[12:]))]


def edges(**settings: int) -> NDArray[np.float32]:
    return synthetic_connectomes(20, **settings).edges


def audit_connectomes(groups: list[str], connections: NDArray[np.float32]) -> Audit:
    subjects = [Case(name, Path(name), group=group, site="a") for name, group in zip(IDS, groups, strict=True)]
    records = {
        name: Record(name, hashes={"connections": row.tobytes().hex()}, arrays={"descriptor": row})
        for name, row in zip(IDS, connections, strict=True)
    }
    return audit(subjects, fold_divisions(FOLDS), records, CONNECTOMES)


def test_different_subjects_are_no_finding() -> None:
    found = audit_connectomes(IDS, edges())
    assert not found.findings
    assert found.parts == {"train": 12, "test": 8}


def test_a_copy_is_found_between_training_and_test_but_not_within_one_part() -> None:
    connections = edges()
    connections[15] = connections[2]
    connections[3] = connections[4]
    found = audit_connectomes(IDS, connections)
    assert [(finding.kind, finding.a, finding.b) for finding in found.findings] == [("connections", "s2", "s15")]
    with pytest.raises(LeakageError, match="s15"):
        found.raise_if_leaking()


def test_two_scans_of_one_brain_and_one_person_in_two_parts_are_found() -> None:
    connections = edges()
    noise = np.random.default_rng(0).normal(0, 0.02, connections.shape[1])
    connections[14] = connections[9] * 0.9 + noise
    groups = ["p" if name in ("s1", "s13") else name for name in IDS]
    found = audit_connectomes(groups, connections)
    assert {(finding.kind, finding.a, finding.b) for finding in found.findings} == {
        ("near-duplicate", "s9", "s14"),
        ("group", "s1", "s13"),
    }


def test_many_connections_at_once_identify_nobody() -> None:
    connections = edges()
    connections[[2, 15]] = np.tanh(np.arctanh(connections[[2, 15]]) + 0.4)
    assert not similar_connectomes(list(connections))


@pytest.mark.real_data
def test_abide_holds_one_scan_under_two_names_and_diagnoses() -> None:
    folder = os.environ.get("MEDFORMER_DATA")
    if not folder:
        pytest.skip("MEDFORMER_DATA is not set")
    with np.load(Path(folder) / "abide" / "abide_fc_697.npz") as data:
        names, labels, connections = data["file_id"], data["dx"], data["fc_cc200"].astype(np.float32)
    (same,) = similar_connectomes(list(connections))
    assert [str(names[row]) for row in (same.first, same.second)] == ["Yale_0050578", "Yale_0050602"]
    assert labels[same.first] != labels[same.second]
