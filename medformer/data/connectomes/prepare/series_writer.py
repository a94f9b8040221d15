"""Writing the time series of regions as the Preprocessed Connectomes Project names and formats them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medformer.connectome.atlases import ATLASES
from medformer.files import write_text


def derivative(atlas: str) -> str:
    """What the project's files call the series of an atlas, such as rois_dosenbach160 for dos160."""
    known = ATLASES.get(atlas)
    return f"rois_{known.aliases[0] if known is not None and known.aliases else atlas}"


def label_table(folder: Path, atlas: str) -> Path:
    """Where a folder that this software wrote keeps the numbers, names and places of an atlas's regions.

    Two levels down, where no reader takes the table for a subject's matrix.
    """
    return folder / "Outputs" / "labels" / f"{atlas}_labels.csv"


def write_series(folder: Path, identity: str, atlas: str, values: NDArray[Any], labels: Sequence[int]) -> Path:
    """Write one `.1D` file atomically: a header with each region's number, then one line per volume, tabs between.

    Args:
        folder: That of the pipeline and strategy; the atlas's folder is made in it.
        identity: The scan (FILE_ID).
        atlas: Name of the atlas.
        values: Shape (T, R).
        labels: Number of each region.

    Returns:
        The file.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    kind = derivative(atlas)
    path = folder / kind / f"{identity}_{kind}.1D"
    write_text(path, "".join(_lines(values, labels)))
    return path


def _lines(values: NDArray[Any], labels: Sequence[int]) -> Iterator[str]:
    yield "\t".join(f"#{label}" for label in labels) + "\n"
    line = "\t".join(["%.6g"] * values.shape[1]) + "\n"
    for volume in values.tolist():
        yield line % tuple(volume)
