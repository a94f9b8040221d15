from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medformer.crossval.plan import Fold, Plan, PlanCase, read_plan, write_plan
from medformer.errors import DataError
from medformer.files import read_json, write_json, write_text


def test_plan_survives_writing(tmp_path: Path, plan: Plan) -> None:
    write_plan(tmp_path / "splits.json", plan)
    assert read_plan(tmp_path / "splits.json") == plan


def test_moving_one_case_by_hand_is_noticed(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "splits.json"
    write_plan(path, plan)
    content = read_json(path)
    content["folds"][0]["train"].append(content["folds"][0]["test"].pop())
    write_json(path, content)
    with pytest.raises(DataError, match=rf"changed after it was written.*{plan.digest()[:12]}"):
        read_plan(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"format": "medformer-plan/1", "cases": 3}'])
def test_files_that_are_no_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "splits.json"
    write_text(path, text)
    with pytest.raises(DataError, match=r"splits\.json"):
        read_plan(path)


def test_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no fold plan"):
        read_plan(tmp_path / "splits.json")


def test_changed_data_are_listed(plan: Plan, cases: list[PlanCase]) -> None:
    plan.check_data(reversed(cases))
    changed = [
        replace(cases[0], fingerprint="other"),
        replace(cases[1], group="elsewhere"),
        *cases[3:],
        PlanCase("newcomer", "g99"),
    ]
    with pytest.raises(DataError) as caught:
        plan.check_data(changed)
    for part in (
        f"1 with changed content ({cases[0].id})",
        f"1 in another group ({cases[1].id})",
        f"1 no longer there ({cases[2].id})",
        "1 new (newcomer)",
    ):
        assert part in str(caught.value)


def test_data_digest_ignores_order_but_not_content(plan: Plan) -> None:
    shuffled = Plan(plan.scheme, plan.seed, plan.cases[::-1], plan.folds)
    assert shuffled.data_digest() == plan.data_digest()
    assert shuffled.digest() != plan.digest()
    changed = Plan(plan.scheme, plan.seed, (replace(plan.cases[0], fingerprint="x"), *plan.cases[1:]), plan.folds)
    assert changed.data_digest() != plan.data_digest()


def test_a_case_has_one_part_per_fold() -> None:
    cases = (PlanCase("a", "a"), PlanCase("b", "b"))
    with pytest.raises(DataError, match="lists a more than once"):
        Plan("predefined", 0, cases, (Fold(0, ("a",), ("b",), ("a",)),))
    with pytest.raises(DataError, match="lists c"):
        Plan("predefined", 0, cases, (Fold(0, ("a",), ("b",), ("c",)),))
    with pytest.raises(DataError, match="numbered 1"):
        Plan("predefined", 0, cases, (Fold(1, ("a",), ("b",), ()),))
