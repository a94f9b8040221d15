from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.inference.volumes.components import (
    Components,
    fit_components,
    join_components,
    read_components,
    same_rule,
    write_components,
)


def two_parts() -> NDArray[np.uint8]:
    """Label 1 in two parts of 8 and 2 voxels, label 2 in two parts of 3 and 1, which touch those of label 1."""
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    labels[6, 6, 6:8] = 1
    labels[3, 1, 1:4] = 2
    labels[6, 7, 8] = 2
    return labels


def test_the_largest_component_of_each_label_is_kept() -> None:
    labels = two_parts()
    same_rule("largest", (1, 2)).apply(labels)
    expected = np.zeros_like(labels)
    expected[1:3, 1:3, 1:3] = 1
    expected[3, 1, 1:4] = 2
    np.testing.assert_array_equal(labels, expected)


def test_a_label_without_a_rule_keeps_everything() -> None:
    labels = two_parts()
    Components({1: "all", 2: "largest"}).apply(labels)
    assert np.count_nonzero(labels == 1) == 10 and np.count_nonzero(labels == 2) == 3


def test_voxels_that_share_a_corner_belong_together() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 7
    same_rule("largest", (7,)).apply(labels)
    assert np.count_nonzero(labels) == 3


@pytest.mark.parametrize("content", [0, 3])
def test_nothing_and_everything_stay(content: int) -> None:
    labels = np.full((4, 5, 6), content, np.uint8)
    same_rule("largest", (3,)).apply(labels)
    assert (labels == content).all()


def test_each_label_gets_the_rule_that_serves_it() -> None:
    predicted = two_parts()
    truth = predicted.copy()
    truth[6, 6, 6:8] = 0
    rules = fit_components([(predicted, truth)] * 5, (1, 2))
    assert rules.rules == {1: "largest", 2: "all"} and rules.cases == {1: 5, 2: 5}
    assert rules.dice[1] == {"all": pytest.approx(16 / 18), "largest": 1.0}
    assert rules.dice[2] == {"all": 1.0, "largest": pytest.approx(6 / 7)}
    assert np.count_nonzero(predicted == 1) == 10, "predictions are not changed"


def test_a_label_of_too_few_validation_cases_keeps_everything() -> None:
    predicted = two_parts()
    truth = predicted.copy()
    truth[6, 6, 6:8] = 0
    without = np.where(truth == 1, 0, truth)
    rules = fit_components([(predicted, truth)] * 4 + [(without, without)] * 4, (1, 2))
    assert rules.dice[1]["largest"] > rules.dice[1]["all"]
    assert rules.rules == {1: "all", 2: "all"} and rules.cases == {1: 4, 2: 8}


def test_a_tie_keeps_everything_and_empty_masks_agree() -> None:
    rules = fit_components([(np.zeros((3, 3, 3), np.uint8),) * 2], (1,))
    assert rules.rules == {1: "all"} and rules.dice[1] == {"all": 1.0, "largest": 1.0}


def test_an_ensemble_does_what_most_of_its_members_learned() -> None:
    each = [Components({1: "largest", 2: "largest"}), Components({1: "largest", 2: "all"}), Components({1: "all"})]
    assert join_components(each).rules == {1: "largest", 2: "all"}
    assert join_components(each[:2]).rules == {1: "largest", 2: "all"}
    assert join_components([]).rules == {}


def test_rules_come_back_from_their_file(tmp_path: Path) -> None:
    predicted = two_parts()
    rules = fit_components([(predicted, predicted)], (1, 2))
    write_components(tmp_path / "components.json", rules)
    assert read_components(tmp_path / "components.json") == rules


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        json.dumps({"format": "other/1", "rules": {}, "dice": {}}),
        json.dumps({"format": "medformer-components/1", "rules": {"1": "smallest"}, "dice": {}}),
        json.dumps({"format": "medformer-components/1", "rules": {"one": "all"}, "dice": {}}),
        json.dumps({"format": "medformer-components/1", "rules": {}}),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "components.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"components.json .*Train again"):
        read_components(path)


def test_rules_cannot_be_fitted_on_nothing() -> None:
    with pytest.raises(DataError, match="no validation case"):
        fit_components([], (1,))
