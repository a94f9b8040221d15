from __future__ import annotations

import pytest

from medformer.errors import ConfigError, UnknownNameError
from medformer.registry import Entry, Registry
from medformer.seeds import derive_seed

TABLE = Registry("mixer", [Entry("pooling", int, "averages"), Entry("attention", float, "attends", paper="2017")])


def test_a_table_reads_like_a_mapping_in_its_own_order() -> None:
    assert list(TABLE) == ["pooling", "attention"]
    assert len(TABLE) == 2
    assert TABLE["attention"].part is float
    assert "pooling" in TABLE and "random" not in TABLE
    assert TABLE.get("pooling") is TABLE["pooling"]


def test_an_unknown_name_comes_with_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError) as caught:
        TABLE["atention"]
    assert str(caught.value) == "Unknown mixer 'atention'. Did you mean 'attention'? Known: attention, pooling."
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        TABLE["xyz"]
    assert "Did you mean" not in str(caught.value)


def test_two_entries_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="share a name"):
        Registry("mixer", [Entry("a", 1, ""), Entry("a", 2, "")])


def test_a_pattern_stands_for_every_name_with_its_beginning() -> None:
    table = Registry("model", [Entry("unet", 1, ""), Entry("smp:<architecture>", 2, "", example="smp:fpn")])
    assert table["smp:fpn"] is table["smp:other"] is table["smp:<architecture>"]
    assert "smp:fpn" in table and "smq:fpn" not in table and 3 not in table
    assert table.examples() == ["unet", "smp:fpn"]
    with pytest.raises(UnknownNameError, match="Did you mean 'unet'"):
        table["unit"]


def test_what_a_part_cannot_do_is_refused_with_the_reason_of_its_row() -> None:
    table = Registry("model", [Entry("flat:<name>", 1, "", cannot={"3-D": "it is two-dimensional."})])
    assert table.require("flat:a", "2-D", "export").part == 1
    with pytest.raises(ConfigError) as caught:
        table.require("flat:a", "2-D", "3-D")
    assert str(caught.value) == "The model flat:a does not support 3-D: it is two-dimensional."


def test_seeds_depend_on_every_part_of_the_purpose() -> None:
    seeds = {
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "fold", 1),
        derive_seed(0, "fold", 2),
        derive_seed(0, "augment", 1),
        derive_seed(0, "fold1"),
        derive_seed(0, "fold", 1, "x"),
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_every_process() -> None:
    # A fixed number: a change here would silently change every published run.
    assert derive_seed(0, "fold", 1) == derive_seed(0, "fold", "1") == 6165473948397454124
