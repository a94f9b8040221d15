"""A split as JSON: nnU-Net's `splits_final.json`, parts by name, pairs as of scikit-learn, or a plan of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.crossval.plan import read_plan
from medformer.crossval.splits.given import GivenDivision, GivenSplit
from medformer.data.folders import natural_order
from medformer.errors import DataError
from medformer.missing import known
from medformer.records import read_record

_PART = re.compile(r"tr|val|test|dev|hold|unseen|fold|part|set|\d", re.IGNORECASE)
_EXPECTED = (
    'Expected a list of folds such as [{"train": [ids], "val": [ids]}, ...], parts such as {"train": [ids], "test": '
    '[ids]}, pairs [[train ids], [test ids]], or {"ids": [...], "splits": [[train indices], [test indices]], ...}.'
)


def json_split(path: Path) -> GivenSplit:
    """Read a split from a JSON file.

    Raises:
        DataError: It is no JSON, or has another form.
    """
    content = read_record(path, object, _EXPECTED)
    if isinstance(content, Mapping):
        if str(content.get("format", "")).startswith("medformer-plan/"):
            return _plan(path)
        if "ids" in content and (splits := content.get("splits", content.get("folds"))) is not None:
            return GivenSplit(str(path), "indices beside their ids", _pairs(path, splits, content["ids"]))
        return _by_name(path, content)
    if isinstance(content, Sequence) and content and all(isinstance(item, Mapping) for item in content):
        folds = tuple(GivenDivision(f"fold {number} ", _parts(path, fold)) for number, fold in enumerate(content))
        return GivenSplit(str(path), "a list of folds, as nnU-Net's splits_final.json", folds)
    if isinstance(content, list) and content and all(isinstance(item, list) for item in content):
        return _lists(path, content)
    raise DataError(f"{path} is no split. {_EXPECTED}")


def _plan(path: Path) -> GivenSplit:
    """A plan of ours: what a fold learns from, training and inner validation, against what it tests."""
    plan = read_plan(path)
    divisions = tuple(
        GivenDivision(f"fold {fold.index} ", {"train": (*fold.train, *fold.validation), "test": fold.test}, fold.repeat)
        for fold in plan.folds
    )
    return GivenSplit(str(path), "a plan of medformer", divisions)


def _by_name(path: Path, content: Mapping[str, Any]) -> GivenSplit:
    """Parts by name, or folds by name that hold parts by name."""
    if content and all(isinstance(value, Mapping) for value in content.values()):
        folds = tuple(
            GivenDivision(
                f"{name if _PART.match(name) and not name.isdecimal() else f'fold {name}'} ", _parts(path, fold)
            )
            for name, fold in content.items()
        )
        return GivenSplit(str(path), "folds by name", folds)
    if folds := _folds_of_entries(path, content):
        several = sum(bool(names) for names in _lists_of(content).values()) > 1
        parts = (GivenDivision("", _parts(path, content)),) if several else ()
        return GivenSplit(str(path), "a list of cases with their folds, as MONAI's", (*parts, *folds), assumed=True)
    return GivenSplit(str(path), "parts by name", (GivenDivision("", _parts(path, content)),))


def _folds_of_entries(path: Path, content: Mapping[str, Any]) -> tuple[GivenDivision, ...]:
    """The folds that entries of a list state, such as `{"image": ..., "label": ..., "fold": 0}`; none without two."""
    members: dict[str, list[str]] = {}
    for item in (item for entries in _lists_of(content).values() for item in entries):
        if isinstance(item, Mapping) and known(item.get("fold")):
            members.setdefault(known(item["fold"]), []).append(_name(path, item))
    return _tested_by_fold({fold: members[fold] for fold in sorted(members, key=natural_order)})


def _lists_of(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists that are parts; keys that hold something else, such as a description, are passed over."""
    return {name: value for name, value in content.items() if isinstance(value, list) and _PART.match(name)}


def _tested_by_fold(members: Mapping[str, Sequence[str]]) -> tuple[GivenDivision, ...]:
    """Folds by the names that each tests; all others are what it trains on. None where there are fewer than two."""
    divisions = []
    for fold, tested in members.items():
        others = tuple(name for other, names in members.items() if other != fold for name in names)
        divisions.append(GivenDivision(f"fold {fold} ", {"train": others, "test": tuple(tested)}))
    return tuple(divisions) if len(divisions) > 1 else ()


def _parts(path: Path, content: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names by part."""
    parts = {name: tuple(_name(path, item) for item in value) for name, value in _lists_of(content).items()}
    if len([names for names in parts.values() if names]) < 2:
        raise DataError(f"{path}: found the parts {', '.join(parts) or 'none'}; expected two or more. {_EXPECTED}")
    return {name: names for name, names in parts.items() if names}


def _name(path: Path, item: Any) -> str:
    """The name of one case: a text, or the image of an entry of a list such as the Decathlon's and MONAI's."""
    if isinstance(item, Mapping):
        item = item.get("image", item.get("id"))
    if isinstance(item, list) and item:
        item = item[0]
    if isinstance(item, str):
        return item
    if isinstance(item, int):
        raise DataError(
            f"{path} holds the number {item} in the place of a name: indices say nothing without the order of the "
            f"cases. Write names of cases, as text, or the ids beside the indices. {_EXPECTED}"
        )
    raise DataError(f"{path} holds {str(item)[:40]!r} in the place of a name. {_EXPECTED}")


def _lists(path: Path, content: list[list[Any]]) -> GivenSplit:
    """Pairs of training and test names, one for each fold; or the names that each fold tests."""
    if all(len(item) == 2 and all(isinstance(side, list) for side in item) for item in content):
        return GivenSplit(str(path), "pairs of training and test names", _pairs(path, content, None))
    if len(content) == 2:
        return GivenSplit(str(path), "training and test names", _pairs(path, [content], None))
    tested = {str(number): [_name(path, item) for item in fold] for number, fold in enumerate(content)}
    return GivenSplit(str(path), "the names that each fold tests", _tested_by_fold(tested), assumed=True)


def _pairs(path: Path, splits: Any, ids: Any) -> tuple[GivenDivision, ...]:
    """Pairs (training, test) of names, or of indices of `ids`."""

    def name(item: Any) -> str:
        if ids is None:
            return _name(path, item)
        if not isinstance(item, int) or not 0 <= item < len(ids):
            raise DataError(f"{path} has the index {item!r}, and {len(ids)} ids; expected 0 to {len(ids) - 1}.")
        return _name(path, ids[item])

    if ids is not None and not isinstance(ids, list):
        raise DataError(f"{path}: `ids` is no list. {_EXPECTED}")
    if not isinstance(splits, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(side, list) for side in pair) for pair in splits
    ):
        raise DataError(f"{path}: the splits are no pairs of lists. {_EXPECTED}")
    one = len(splits) == 1
    return tuple(
        GivenDivision(
            "" if one else f"fold {number} ",
            {"train": tuple(map(name, train)), "test": tuple(map(name, test))},
        )
        for number, (train, test) in enumerate(splits)
    )
