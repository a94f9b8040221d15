"""The folder that `medformer polyp evaluate` or `medformer volume evaluate` wrote."""

from __future__ import annotations

from pathlib import Path

from medformer.crossval.compare.scores import Scores, by_key, kind_of
from medformer.crossval.run.collect import read_oof
from medformer.errors import DataError
from medformer.files import sha256
from medformer.inference.scoring import SUMMARY, TABLE
from medformer.records import Content, Table, read_record

_AGAIN = "Run `evaluate` again."


class _Summary(Content):
    source: Table


def is_evaluated(folder: Path) -> bool:
    """Whether a folder holds what `evaluate` writes."""
    return (folder / TABLE).is_file() and (folder / SUMMARY).is_file()


def evaluated_scores(folder: Path) -> Scores:
    """Read the table of an evaluated folder.

    Raises:
        DataError: A file is damaged, or the table is not the one that the numbers beside it were made of.
    """
    table = folder / TABLE
    recorded = read_record(folder / SUMMARY, _Summary, _AGAIN).source.get("sha256")
    if recorded is not None and recorded != sha256(table):
        raise DataError(
            f"{table} was changed after it was written: {SUMMARY} beside it records another SHA-256 "
            f"({str(recorded)[:12]}). Numbers from an edited table are not those of the masks. {_AGAIN}"
        )
    rows = read_oof(table)
    return Scores(folder, str(table), kind_of(rows[0]), by_key(rows, str(table)), _AGAIN)
