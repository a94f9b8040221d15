"""The shipped splits hold the published numbers, and hold together."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from medformer.data.frames.layouts import scan
from medformer.data.frames.named_splits import NAMED_SPLITS, canonical_dataset, named_split
from medformer.errors import UnknownNameError
from medformer.files import manifests_dir

SEQUENCE_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)


def test_pranet_has_the_published_sizes() -> None:
    counts = Counter((row.dataset, row.split) for row in named_split("pranet").rows.values())
    assert counts == {
        ("Kvasir-SEG", "train"): 900,
        ("CVC-ClinicDB", "train"): 550,
        ("Kvasir-SEG", "test"): 100,
        ("CVC-ClinicDB", "test"): 62,
        ("CVC-ColonDB", "test"): 380,
        ("CVC-300", "test"): 60,
        ("ETIS-LaribPolypDB", "test"): 196,
    }


def test_clinicdb_is_29_contiguous_sequences() -> None:
    rows = named_split("clinicdb-sequences").rows
    first: dict[str, int] = {}
    for row in sorted(rows.values(), key=lambda row: int(row.stem)):
        first.setdefault(row.group, int(row.stem))
    assert tuple(first.values()) == SEQUENCE_STARTS
    assert sorted(int(row.stem) for row in rows.values()) == list(range(1, 613))


def test_no_sequence_is_in_two_folds_or_two_parts() -> None:
    rows = named_split("clinicdb-sequences").rows.values()
    assert max(Counter(group for group, _ in {(row.group, row.fold) for row in rows}).values()) == 1
    assert {row.fold for row in rows if row.split == "test"} == {"0"}
    assert Counter(row.fold for row in rows) == {"0": 130, "1": 114, "2": 125, "3": 124, "4": 119}


def test_both_tables_agree_on_the_sequences() -> None:
    sequences = named_split("clinicdb-sequences")
    clinic = [row for row in named_split("pranet").rows.values() if row.dataset == "CVC-ClinicDB"]
    assert len(clinic) == 612
    for row in clinic:
        other = sequences.find("CVC-ClinicDB", row.stem)
        assert other is not None
        assert other.group == row.group


@pytest.mark.parametrize("name", NAMED_SPLITS)
def test_tables_follow_their_schema_and_hold_nothing_twice(name: str) -> None:
    schema = json.loads((manifests_dir() / "named_split.schema.json").read_text())
    with open(manifests_dir() / NAMED_SPLITS[name].part, newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        assert set(schema["required"]) <= set(row) <= set(schema["properties"])
        assert row["dataset"] in schema["properties"]["dataset"]["enum"]
        assert row["split"] in schema["properties"]["split"]["enum"]
    assert len({(row["dataset"], row["stem"]) for row in table}) == len(table)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Kvasir", "Kvasir-SEG"),
        ("kvasir-seg", "Kvasir-SEG"),
        ("CVC_ClinicDB", "CVC-ClinicDB"),
        ("ETIS-LaribPolypDB", "ETIS-LaribPolypDB"),
        ("my hospital", "my hospital"),
    ],
)
def test_datasets_go_by_several_names(name: str, canonical: str) -> None:
    assert canonical_dataset(name) == canonical


def test_looking_up() -> None:
    split = named_split("pranet")
    row = split.find("ClinicDB", "1")
    assert row is not None
    assert row.group == "sequence-01"
    assert split.find("ClinicDB", "613") is None
    assert split.dataset_of("1", "train") == "CVC-ClinicDB"
    assert split.dataset_of("1", "test") is None, "ColonDB and ETIS both have it"
    assert len(split.stems("ETIS")) == 196
    with pytest.raises(UnknownNameError, match="Did you mean 'pranet'"):
        named_split("prane")


@pytest.mark.real_data
def test_the_real_folders_match_pranets_lists(medformer_data: Path) -> None:
    found = scan(medformer_data / "polyp", split="pranet")
    assert found.problems == ()
    assert Counter((case.site, case.split) for case in found.cases) == {
        ("Kvasir-SEG", "train"): 900,
        ("Kvasir-SEG", "test"): 100,
        ("CVC-ClinicDB", "train"): 550,
        ("CVC-ClinicDB", "test"): 62,
        ("CVC-300", "test"): 60,
    }
