"""The parts of a split that the data give: where none is for training, what they are is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medformer.crossval.run.begin.given_parts import draw
from medformer.data.cases import Case
from medformer.errors import DataError


def study(*splits: str, scheme: str = "predefined") -> Any:
    cases = tuple(Case(f"c{number}", split=split) for number, split in enumerate(splits))
    return SimpleNamespace(
        cases=cases,
        crossval=SimpleNamespace(scheme=scheme),
        data=SimpleNamespace(path=Path("table.csv")),
        config=SimpleNamespace(seed=0),
    )


def test_a_split_without_a_training_part_says_what_it_holds() -> None:
    with pytest.raises(DataError, match=r"No row of table.csv has the split `train`.*`training` in 2 .*`test` in 1"):
        draw(study("training", "training", "test"), [])
