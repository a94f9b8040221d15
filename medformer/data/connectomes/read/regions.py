"""Names, places and networks of the regions of an atlas.

A table of labels is a CSV file: the region's number in the label volume, then its name; lines that begin with `#` are
comments. A header may name more columns: `x, y, z` or `center of mass` (MNI space, mm) and `network`. The published
table of CC200, which lists the overlap of each cluster with other atlases, is read too: a cluster is named after the
AAL region that holds most of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medformer.connectome.atlases import atlas_name, require_regions
from medformer.data.connectomes.store import Content, StoredAtlas
from medformer.data.tables import TableForm, read_cells
from medformer.errors import DataError

Coordinates = tuple[float, float, float]

_TABLE = TableForm(
    what="a table of region labels (CSV)",
    origin="Each line holds a region's number and its name.",
    columns=("number", "name"),
    required=("number", "name"),
    per_row="region",
)
_NAMES = ("name", "region", "label", "aal")
_PLACES = ("center of mass", "centre of mass", "coordinates", "mni")
_SUFFIX = "_labels.csv"
_NETWORKS = ("network", "networks")
_SHARE = re.compile(r'\["(?P<name>[^"]+)":')
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Label:
    """One region."""

    name: str
    coordinates: Coordinates | None = None
    network: str = ""


Labels = Mapping[str, Label]
"""Regions by their number, as text, in the table's order."""


def read_labels(path: Path) -> Labels:
    """Read a table of labels.

    Raises:
        DataError: It is no such table, or a number comes twice.
    """
    first, rest = read_cells(path, _TABLE)
    rows = [(line, cells) for line, cells in [(1, first), *rest] if not cells[0].startswith("#")]
    header: list[str] = []
    if rows and not _NUMBER.fullmatch(rows[0][1][0]):
        header = [cell.lower() for cell in rows.pop(0)[1]]
    labels: dict[str, Label] = {}
    for line, cells in rows:
        number = cells[0].removesuffix(".0")
        if len(cells) < 2 or not _NUMBER.fullmatch(number) or (header and len(cells) != len(header)):
            raise DataError(f"{path}, line {line}: found '{','.join(cells)}'; expected a region's number and its name.")
        if number in labels:
            raise DataError(f"{path}, line {line}: the region {number} is listed twice; expected every number once.")
        labels[number] = _label(cells, header) if header else Label(", ".join(filter(None, cells[1:])))
    if not labels:
        raise DataError(f"{path} names no regions; expected lines with a region's number and its name.")
    return labels


def find_labels(folder: Path) -> dict[str, Path]:
    """The tables `labels/<atlas>_labels.csv` in a folder, in its `Outputs`, or beside one of the folders above."""
    found: dict[str, Path] = {}
    for place in (folder, folder / "Outputs", *list(folder.absolute().parents)[:3]):
        for path in sorted(place.glob(f"labels/*{_SUFFIX}")):
            found.setdefault(atlas_name(path.name.removesuffix(_SUFFIX)), path)
    return found


def describe_atlas(
    atlas: str, content: Content, regions: int, numbers: Sequence[str] | None, labels: Labels | None
) -> StoredAtlas:
    """Describe an atlas for the store.

    Args:
        atlas: Its name. Without labels, `dos160` is described by the table that nilearn ships.
        content: What is stored.
        regions: Number of regions.
        numbers: The regions' numbers in the label volume; None where the data do not have them. Labels are then used
            only if there is one for each region, in the same order.
        labels: By number; regions without a label are named by their number.

    Raises:
        DataError: The number of regions is not the atlas's.
    """
    require_regions(atlas, regions)
    given = None if numbers is None else tuple(numbers)
    known = labels if labels is not None else _dosenbach() if atlas == "dos160" else {}
    if numbers is None:
        if atlas == "dos160":
            numbers = [*(str(number) for number in range(1, regions)), "223"]
        elif len(known) == regions:
            numbers = list(known)
        else:
            # A position is not a number of the label volume: looking it up would give regions wrong names.
            numbers, known = [str(place) for place in range(1, regions + 1)], {}
    found = [known.get(number.removesuffix(".0")) for number in numbers]
    places = tuple(label.coordinates if label else None for label in found)
    networks = tuple(label.network if label else "" for label in found)
    return StoredAtlas(
        regions=regions,
        content=content,
        names=tuple(label.name if label else number for label, number in zip(found, numbers, strict=True)),
        coordinates=places if any(places) else None,
        networks=networks if any(networks) else None,
        numbers=given,
    )


def _label(cells: Sequence[str], header: Sequence[str]) -> Label:
    row = dict(zip(header, cells, strict=True))
    name = next((row[column] for column in _NAMES if column in row), cells[1])
    if _SHARE.match(name):
        shares = [_SHARE.match(text) for text in (name, *cells)]
        known = [share["name"] for share in shares if share and share["name"] != "None"]
        name = f"{known[0] if known else 'unnamed'} ({cells[0]})"
    text = next((row[column] for column in _PLACES if column in row), "")
    if {"x", "y", "z"} <= set(header):
        text = f"{row['x']} {row['y']} {row['z']}"
    place = [float(number) for number in _NUMBER.findall(text)]
    network = next((row[column] for column in _NETWORKS if column in row), "")
    return Label(name, (place[0], place[1], place[2]) if len(place) == 3 else None, network)


def _dosenbach() -> Labels:
    from nilearn.datasets import fetch_coords_dosenbach_2010

    table = fetch_coords_dosenbach_2010()
    found = {}
    for row, name, network in zip(table.rois.itertuples(index=False), table.labels, table.networks, strict=True):
        # Names end in the region's number in the paper's table, which is its number in the label volume.
        found[name.rsplit(" ", 1)[1]] = Label(name, (float(row.x), float(row.y), float(row.z)), network)
    return found
