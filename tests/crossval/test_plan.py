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


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"format": "medformer-plan/2", "cases": 3}'])
def test_files_that_are_no_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "splits.json"
    write_text(path, text)
    with pytest.raises(DataError, match=r"splits\.json") as caught:
        read_plan(path)
    # What Python calls it says nothing to a user.
    assert not any(word in str(caught.value) for word in ("KeyError", "TypeError", "tuple", "NoneType"))


def test_plans_of_another_version_are_not_guessed_at(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "splits.json"
    write_plan(path, plan)
    write_json(path, {**read_json(path), "format": "medformer-plan/1"})
    with pytest.raises(DataError, match="has format 'medformer-plan/1'; expected 'medformer-plan/2'"):
        read_plan(path)


def test_settings_are_part_of_the_plan_whatever_their_order(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "splits.json"
    settings = {"repeats": 2, "stratify": ["site", "age"], "bins": 3}
    first = replace(plan, settings=settings)
    turned = replace(plan, settings=dict(reversed(settings.items())))
    assert first.digest() == turned.digest()
    assert len({plan.digest(), first.digest(), replace(plan, settings={**settings, "bins": 4}).digest()}) == 3
    write_plan(path, turned)
    assert read_plan(path) == first
    content = read_json(path)
    content["settings"]["repeats"] = 3
    write_json(path, content)
    with pytest.raises(DataError, match="changed after it was written"):
        read_plan(path)


def test_covariates_count_whatever_their_order() -> None:
    cases = [PlanCase("a", "g", covariates={"age": "3", "sex": "F"}), PlanCase("b", "h")]
    turned = [replace(cases[0], covariates={"sex": "F", "age": "3"}), cases[1]]
    digests = {Plan("predefined", 0, tuple(them), ()).digest() for them in (cases, turned)}
    assert len(digests) == 1


def test_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"splits\.json is missing"):
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


def test_what_a_plan_was_drawn_by_must_not_change(plan: Plan) -> None:
    cases = [replace(case, label="0", covariates={"age": "50", "note": "x"}) for case in plan.cases]
    drawn = replace(plan, cases=tuple(cases), settings={"stratify": ["site", "age"], "left_out": "dataset"})
    noted = [replace(case, covariates={"age": "50", "note": "other"}) for case in cases]
    drawn.check_data(noted)
    assert replace(drawn, cases=tuple(noted)).data_digest() == drawn.data_digest()
    changed = [
        replace(cases[0], site="elsewhere"),
        replace(cases[1], covariates={"age": "51"}),
        replace(cases[2], covariates={}),
        replace(cases[3], covariates={"age": "50", "dataset": "new"}),
        replace(cases[4], label="1"),
        *cases[5:],
    ]
    with pytest.raises(DataError) as caught:
        drawn.check_data(changed)
    for part in (
        f"1 at another site ({cases[0].id})",
        f"2 with another age ({cases[1].id}, {cases[2].id})",
        f"1 with another dataset ({cases[3].id})",
        f"1 with another label ({cases[4].id})",
    ):
        assert part in str(caught.value)
    assert replace(drawn, cases=tuple(changed)).data_digest() != drawn.data_digest()
    with pytest.raises(DataError, match="more than once"):
        drawn.check_data([*cases, cases[0]])


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
