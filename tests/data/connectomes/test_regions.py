"""Regions are called as the table says, never as another region is."""

from __future__ import annotations

from pathlib import Path

import pytest

from medformer.connectome.atlases import ATLASES, atlas_name, require_regions
from medformer.data.connectomes.read.regions import Label, describe_atlas, read_labels
from medformer.errors import DataError


def labels(folder: Path, text: str):
    (folder / "labels.csv").write_text(text)
    return read_labels(folder / "labels.csv")


def test_numbers_and_names(tmp_path: Path) -> None:
    found = labels(tmp_path, "# from somewhere,\n# with love\n2001,Precentral_L\n2002,Left Temporal; inferior, upper\n")
    assert found == {"2001": Label("Precentral_L"), "2002": Label("Left Temporal; inferior, upper")}


def test_a_header_names_places_and_networks(tmp_path: Path) -> None:
    found = labels(tmp_path, "number,name,x,y,z,network\n1,vmPFC,0,64,-3.5,default\n2,aPFC,,,,\n")
    assert found == {"1": Label("vmPFC", (0.0, 64.0, -3.5), "default"), "2": Label("aPFC")}


def test_the_published_table_of_cc200(tmp_path: Path) -> None:
    text = (
        "ROI number, volume, center of mass,Dosenbach,AAL,Harvard-Oxford\n"
        '1, 162, (-39.6;-85.4;1.4),["None": 0.91],["Occipital_Mid_L": 0.81]["Occipital_Inf_L": 0.19],["X": 0.87]\n'
        '2, 10, (1;2;3),["None": 0.91],["None": 0.81],["Left Cortex; inferior": 0.2]\n'
    )
    assert labels(tmp_path, text) == {
        "1": Label("Occipital_Mid_L (1)", (-39.6, -85.4, 1.4)),
        "2": Label("Left Cortex; inferior (2)", (1.0, 2.0, 3.0)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,a\n1,b\n", "line 2: the region 1 is listed twice"),
        ("1,a\nb\n", "line 2: found 'b'; expected a region's number"),
        ("# nothing\n", "names no regions"),
    ],
)
def test_no_such_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels(tmp_path, text)


def test_a_position_is_not_taken_for_a_number() -> None:
    table = {"2": Label("second"), "1": Label("first")}
    assert describe_atlas("mine", "series", 2, ("1", "2"), table).names == ("first", "second")
    assert describe_atlas("mine", "series", 3, ("1", "2", "9"), table).names == ("first", "second", "9")
    assert describe_atlas("mine", "correlation", 2, None, table).names == ("second", "first")
    assert describe_atlas("mine", "correlation", 3, None, table).names == ("1", "2", "3")


def test_dosenbach_is_known_without_a_table() -> None:
    block = describe_atlas("dos160", "series", 161, None, None)
    assert block.names[0] == "vmPFC 1"
    assert block.names[160] == "223"
    assert block.networks is not None and block.networks[0] == "default" and block.networks[160] == ""
    assert block.coordinates is not None and block.coordinates[0] == (6.0, 64.0, 3.0)
    assert block.coordinates[160] is None


@pytest.mark.parametrize("atlas", sorted(ATLASES))
def test_a_known_atlas_has_its_number_of_regions(atlas: str) -> None:
    require_regions(atlas, ATLASES[atlas].regions)
    with pytest.raises(
        DataError, match=f"S_1: found 160 regions for atlas '{atlas}', expected {ATLASES[atlas].regions}"
    ):
        require_regions(atlas, 160, "S_1")


def test_names_of_atlases() -> None:
    assert [atlas_name(name) for name in ("dosenbach160", "CC200", "mine")] == ["dos160", "cc200", "mine"]
    require_regions("mine", 7)
