from __future__ import annotations

import random
from collections import Counter

import pytest

from medformer.crossval.checks.permute import permuted_assignment
from medformer.crossval.plan import PlanCase
from medformer.errors import DataError


def cohort(sizes: list[int], labels: list[str]) -> list[PlanCase]:
    """Groups of the given sizes; one label per group, or one per case."""
    cases = [PlanCase(f"g{g}_{i}", f"g{g}") for g, size in enumerate(sizes) for i in range(size)]
    if len(labels) == len(sizes):
        labels = [label for label, size in zip(labels, sizes, strict=True) for _ in range(size)]
    return [PlanCase(case.id, case.group, label=label) for case, label in zip(cases, labels, strict=True)]


def random_cohort(seed: int) -> list[PlanCase]:
    draw = random.Random(seed)
    sizes = [draw.choice([1, 1, 2, 3, 7]) for _ in range(draw.randint(2, 15))]
    kind = draw.choice(["masks", "group", "case"])
    if kind == "masks":
        return cohort(sizes, [""] * len(sizes))
    count = len(sizes) if kind == "group" else sum(sizes)
    return cohort(sizes, ["0", "1", *(draw.choice("01") for _ in range(count - 2))])


@pytest.mark.parametrize("seed", range(120))
def test_whole_groups_give_and_each_gives_once(seed: int) -> None:
    cases = random_cohort(seed)
    group = {case.id: case.group for case in cases}
    label = {case.id: case.label for case in cases}
    assigned = permuted_assignment(cases, seed)
    assert list(assigned) == [case.id for case in cases]
    assert assigned == permuted_assignment(cases, seed)
    gives: dict[str, set[str]] = {}
    for name, source in assigned.items():
        gives.setdefault(group[name], set()).add(group[source])
    assert all(len(sources) == 1 for sources in gives.values())
    givers = [next(iter(sources)) for sources in gives.values()]
    assert sorted(givers) == sorted(gives)
    if any(label.values()):
        assert any(label[name] != label[source] for name, source in assigned.items())
    else:
        assert all(group[name] != group[source] for name, source in assigned.items())


def test_labels_of_groups_are_distributed_over_groups_exactly() -> None:
    cases = cohort([1, 4, 2, 9, 3, 3], ["0", "0", "1", "1", "2", "0"])
    label = {case.id: case.label for case in cases}
    for seed in range(30):
        assigned = permuted_assignment(cases, seed)
        given = {
            case.group: {label[assigned[other.id]] for other in cases if other.group == case.group} for case in cases
        }
        assert all(len(labels) == 1 for labels in given.values())
        assert Counter(labels.copy().pop() for labels in given.values()) == {"0": 3, "1": 2, "2": 1}


def test_groups_of_equal_size_exchange_case_by_case() -> None:
    cases = cohort([2, 2, 2, 3, 3, 5, 5], [""] * 7)
    for seed in range(20):
        assigned = permuted_assignment(cases, seed)
        assert sorted(assigned.values()) == sorted(assigned)


def test_labels_that_differ_within_some_groups_keep_their_counts_over_cases() -> None:
    cases = cohort([1, 1, 1, 3, 3, 3], [*"010", *"000", *"111", *"010"])
    for seed in range(20):
        assigned = permuted_assignment(cases, seed)
        assert sorted(assigned.values()) == sorted(assigned)


def test_a_group_of_a_size_of_its_own_never_keeps_its_masks() -> None:
    size_of = Counter(case.group for case in cohort([2, 2, 2, 9], [""] * 4))
    for seed in range(20):
        assigned = permuted_assignment(cohort([2, 2, 2, 9], [""] * 4), seed)
        sources = Counter(source for name, source in assigned.items() if name.startswith("g3"))
        # Nine frames get the two masks of the other group in turn.
        assert sorted(sources.values()) == [4, 5]
        assert size_of["g3"] == 9


def test_every_labeling_is_equally_likely() -> None:
    cases = cohort([1, 2, 3, 1], ["0", "0", "1", "1"])
    label = {case.id: case.label for case in cases}
    counts = Counter()
    for seed in range(1500):
        assigned = permuted_assignment(cases, seed)
        counts[tuple(label[assigned[f"g{g}_0"]] for g in range(4))] += 1
    # Six ways to place two ones, less the true one; 300 each, sd 15.
    assert len(counts) == 5
    assert all(240 < count < 360 for count in counts.values())


def test_pairs_of_both_classes_are_not_left_as_they_are() -> None:
    cases = cohort([2] * 5, ["0", "1"] * 5)
    label = {case.id: case.label for case in cases}
    for seed in range(40):
        assigned = permuted_assignment(cases, seed)
        assert any(label[name] != label[source] for name, source in assigned.items())
        assert Counter(label[source] for source in assigned.values()) == {"0": 5, "1": 5}


def test_other_seeds_assign_otherwise() -> None:
    cases = random_cohort(3)
    assert len({tuple(permuted_assignment(cases, seed).values()) for seed in range(10)}) > 5


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "0 group"),
        (cohort([4], [""]), "1 group"),
        (cohort([2, 2], ["1", "1"]), "single class '1'"),
        (cohort([1, 1], ["0", "1"]) * 2, "more than once"),
    ],
)
def test_where_nothing_can_be_exchanged(cases: list[PlanCase], message: str) -> None:
    with pytest.raises(DataError, match=message):
        permuted_assignment(cases, 0)
