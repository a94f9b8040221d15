"""Connectomes on both sides of a split: the same subject, the same data, two scans of one brain."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_connectomes import synthetic_connectomes

from medformer.crossval.plan import Fold
from medformer.data.connectomes.audit import audit_connectomes, same_subject_pairs
from medformer.data.manifest import Case
from medformer.errors import LeakageError

IDS = [f"s{number}" for number in range(20)]
CASES = [Case(name, group=name, site="a") for name in IDS]
FOLDS = [Fold(0, tuple(IDS[:8]), tuple(IDS[8:12]), tuple(IDS[12:]))]


def edges(**settings: int) -> NDArray[np.float32]:
    return synthetic_connectomes(20, **settings).edges


def test_different_subjects_are_no_finding() -> None:
    audit = audit_connectomes(CASES, edges(), FOLDS)
    assert not audit.findings
    assert audit.parts == {"train": 12, "test": 8}


def test_a_copy_is_found_between_training_and_test_but_not_within_one_part() -> None:
    connections = edges()
    connections[15] = connections[2]
    connections[3] = connections[4]
    audit = audit_connectomes(CASES, connections, FOLDS)
    assert [(finding.kind, finding.a, finding.b) for finding in audit.findings] == [("connections", "s2", "s15")]
    with pytest.raises(LeakageError, match="s15"):
        audit.raise_if_leaking()


def test_two_scans_of_one_brain_and_one_person_in_two_parts_are_found() -> None:
    connections = edges()
    noise = np.random.default_rng(0).normal(0, 0.02, connections.shape[1])
    connections[14] = connections[9] * 0.9 + noise
    cases = [replace(case, group="p") if case.id in ("s1", "s13") else case for case in CASES]
    audit = audit_connectomes(cases, connections, FOLDS)
    assert {(finding.kind, finding.a, finding.b) for finding in audit.findings} == {
        ("near-duplicate", "s9", "s14"),
        ("group", "s1", "s13"),
    }


def test_many_connections_at_once_identify_nobody() -> None:
    connections = edges()
    connections[[2, 15]] = np.tanh(np.arctanh(connections[[2, 15]]) + 0.4)
    assert not same_subject_pairs(connections)


@pytest.mark.real_data
def test_abide_holds_one_scan_under_two_names_and_diagnoses() -> None:
    folder = os.environ.get("MEDFORMER_DATA")
    if not folder:
        pytest.skip("MEDFORMER_DATA is not set")
    with np.load(Path(folder) / "abide" / "abide_fc_697.npz") as data:
        names, labels, connections = data["file_id"], data["dx"], data["fc_cc200"].astype(np.float32)
    (pair,) = same_subject_pairs(connections)
    assert [str(names[row]) for row in (pair.first, pair.second)] == ["Yale_0050578", "Yale_0050602"]
    assert labels[pair.first] != labels[pair.second]
