"""Which connected components of a label are kept: all, or the largest, chosen on validation cases if asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.errors import DataError
from medformer.evaluation.masks.overlap import dice, union_box
from medformer.files import write_json
from medformer.imaging.geometry import label_counts
from medformer.inference.threshold import FEWEST
from medformer.records import Content, read_record

FORMAT = "medformer-components/1"

Rule = Literal["all", "largest"]

RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Components:
    """A rule for each label; a label without one keeps everything.

    Attributes:
        rules: Rule by label value.
        dice: Where rules were fitted, the mean Dice of each label under each rule.
        cases: Where rules were fitted, the validation cases that have each label.
    """

    rules: Mapping[int, Rule] = field(default_factory=dict)
    dice: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    cases: Mapping[int, int] = field(default_factory=dict)

    def apply(self, labels: NDArray[Any]) -> None:
        """Set the components that the rules drop to background, in place.

        Each label is processed by itself: a voxel that one label loses does not become another label.

        Args:
            labels: Label values (X, Y, Z).
        """
        for value, rule in sorted(self.rules.items()):
            if rule == "largest":
                _keep_largest(labels, value)


def same_rule(rule: Rule, values: Iterable[int]) -> Components:
    """The same rule for every label value."""
    return Components(dict.fromkeys(values, rule))


def fit_components(pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], values: Sequence[int]) -> Components:
    """Choose for each label the rule with the higher mean Dice; on a tie, everything is kept.

    Two empty masks count 1. Everything of a label is kept that fewer than `FEWEST` validation cases have. Fit on the
    inner validation part of a fold, never on what is tested.

    Args:
        pairs: Predicted and true label maps (X, Y, Z), one pair at a time.
        values: Label values.

    Raises:
        DataError: There is no pair, or the two arrays of a pair differ in shape.
    """
    scores: dict[int, dict[Rule, list[float]]] = {value: {rule: [] for rule in RULES} for value in values}
    cases = dict.fromkeys(values, 0)
    for predicted, truth in pairs:
        cleaned = predicted.copy()
        same_rule("largest", values).apply(cleaned)
        for value in values:
            expected = truth == value
            cases[value] += bool(expected.any())
            scores[value]["all"].append(dice(predicted == value, expected))
            scores[value]["largest"].append(dice(cleaned == value, expected))
    if any(not given["all"] for given in scores.values()):
        raise DataError("Component rules cannot be fitted: got no validation case. Set inference.components to all.")
    means = {value: {rule: float(np.mean(given)) for rule, given in by.items()} for value, by in scores.items()}
    rules: dict[int, Rule] = {
        value: "largest" if by["largest"] > by["all"] and cases[value] >= FEWEST else "all"
        for value, by in means.items()
    }
    dice_by_rule = {value: {str(rule): score for rule, score in by.items()} for value, by in means.items()}
    return Components(rules, dice_by_rule, cases)


def join_components(each: Sequence[Components]) -> Components:
    """The rules of an ensemble: for each label what most of its members chose; on a tie, everything is kept."""
    values = sorted({value for components in each for value in components.rules})
    wanting = {value: sum(components.rules.get(value) == "largest" for components in each) for value in values}
    return Components({value: "largest" if 2 * count > len(each) else "all" for value, count in wanting.items()})


def write_components(path: Path, components: Components) -> None:
    """Write rules as JSON, beside the weights that they were chosen for."""
    content = {"format": FORMAT, "rules": components.rules, "dice": components.dice}
    write_json(path, content | ({"cases": components.cases} if components.cases else {}))


def read_components(path: Path) -> Components:
    """Read rules.

    Raises:
        DataError: The file is missing, damaged or holds something else.
    """
    content = read_record(path, _ComponentsFile, "Expected the component rules that training wrote. Train again.")
    return Components(content.rules, content.dice, content.cases or {})


class _ComponentsFile(Content):
    format: Literal["medformer-components/1"]
    rules: dict[int, Rule]
    dice: dict[int, dict[str, float]]
    cases: dict[int, int] | None = None


def _keep_largest(labels: NDArray[Any], value: int) -> None:
    """Two voxels are connected if they share a face, an edge or a corner; of equal components, the first stays."""
    mask = labels == value
    box = union_box(mask, mask)
    inside = mask[box]
    parts, count = ndimage.label(inside, structure=np.ones((3, 3, 3), dtype=bool))
    if count > 1:
        sizes = label_counts(parts)
        largest = max(range(1, count + 1), key=sizes.__getitem__)
        labels[box][inside & (parts != largest)] = 0
