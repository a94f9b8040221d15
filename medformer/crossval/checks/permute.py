"""Which case gets the label of which other case in a permuted run, in which there is nothing to learn."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from medformer.crossval.plan import PlanCase, check_unique
from medformer.errors import DataError
from medformer.seeds import derive_seed


def permuted_assignment(cases: Sequence[PlanCase], seed: int) -> dict[str, str]:
    """Say for each case from which case it gets its label or mask.

    Cases of a group resemble each other, so whole groups are exchanged: a group gets all its labels from one other
    group, and each group gives its labels exactly once, so that their distribution over groups stays the same.

    * Where the labels of each group are all the same, any two groups may be exchanged; all permutations are equally
      likely.
    * Otherwise (masks, or labels that differ within groups), groups of equal size are exchanged, case by case in a
      drawn order. Groups of a size that no other group has are exchanged among each other; if there is only one, it
      joins the groups of the nearest size. There, a smaller group gets some of the labels of the larger one, and a
      larger group gets those of the smaller one in turn.

    Labels always change for at least one case. Without labels, every group gets the masks of another group: cases that
    keep their own masks would weaken the check.

    Labels are exchanged across sites and strata. Within sites they would keep whatever labels have to do with the
    site, and a model that only recognizes the site would score above chance without any leak. As it is, a score above
    chance means one thing: labels of test cases reached the training. The price: this run does not show whether a real
    score rests on the site, or on the same picture in two groups. Leave-one-site-out, the site probe and the leakage
    audit show that.

    The plan is not balanced by the permuted labels: if a training part has too many cases of a class, its test part has
    too few. A score pooled over folds therefore lies below chance (AUC 0.42 with 60 cases in 5 folds, 0.48 with 200);
    the mean of the folds' scores does not, and is the one to compare with chance.

    Args:
        cases: All cases of a plan.
        seed: Equal seeds assign equally.

    Returns:
        For each case's id, the id of the case that gives.

    Raises:
        DataError: A single group, or a single class: nothing can be exchanged. Repeated ids.
    """
    check_unique(cases)
    groups: dict[str, list[PlanCase]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    label = {case.id: case.label for case in cases}
    labeled = any(label.values())
    if len(groups) < 2 or (labeled and len(set(label.values())) < 2):
        what = f"{len(groups)} group(s)" if len(groups) < 2 else f"the single class '{cases[0].label}'"
        raise DataError(
            f"Cannot permute the labels of {what}; expected at least two groups and, where there are labels, two "
            "classes. Switch crossval.permute_labels off."
        )
    uniform = labeled and all(len({case.label for case in members}) == 1 for members in groups.values())
    exchangeable = [list(groups)] if uniform else _alike(groups)
    draw = random.Random(derive_seed(seed, "permuted labels"))
    while True:
        giver: dict[str, str] = {}
        for names in exchangeable:
            drawn = draw.sample(names, len(names))
            # Without labels, the groups stand in a circle and each gives to the one before it.
            giver |= zip(names, drawn, strict=True) if labeled else zip(drawn, [*drawn[1:], drawn[0]], strict=True)
        assigned: dict[str, str] = {}
        for name, members in groups.items():
            given = draw.sample(groups[giver[name]], len(groups[giver[name]]))
            assigned |= {case.id: given[place % len(given)].id for place, case in enumerate(members)}
        if not labeled or any(label[source] != label[name] for name, source in assigned.items()):
            return assigned


def _alike(groups: Mapping[str, Sequence[PlanCase]]) -> list[list[str]]:
    """Groups that may be exchanged: of equal size, or else of a size that no other has."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name, members in groups.items():
        by_size[len(members)].append(name)
    alike = {size: names for size, names in by_size.items() if len(names) > 1}
    alone = {size: names[0] for size, names in by_size.items() if len(names) == 1}
    if len(alone) == 1:
        ((size, name),) = alone.items()
        alike[min(alike, key=lambda other: (abs(other - size), other))].append(name)
        return list(alike.values())
    return [*alike.values(), *([list(alone.values())] if alone else [])]
