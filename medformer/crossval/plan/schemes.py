"""Ways to draw a fold plan: k-fold, leave-one-site-out, hold-out, and parts that are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold, Plan, PlanCase, check_unique, some
from medformer.crossval.plan.group_split import draw_folds, draw_test, draw_validation, groups_by_class
from medformer.crossval.plan.strata import with_strata
from medformer.errors import ConfigError, DataError, counted
from medformer.missing import known
from medformer.seeds import derive_seed


def draw_plan(
    cases: Sequence[PlanCase],
    config: CrossvalConfig,
    *,
    seed: int,
    train: Sequence[str] = (),
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> Plan:
    """Draw the plan that a config asks for, balanced by the columns it names.

    Every part that is drawn consists of whole groups, also the inner validation part of each training part. Where cases
    have labels, every class is in the training and in the inner validation part of every fold.

    Args:
        cases: In manifest order; their strata are made here.
        config: The scheme and its numbers.
        seed: The run's seed.
        train: Ids that the scheme `predefined` trains on. The other schemes draw their parts from all cases, whatever
            parts are given.
        validation: Ids that it selects by; without any, `config.validation` of the training part is drawn.
        test: Ids that it predicts.

    Raises:
        DataError: Too few groups or sites, cases without a label or site where others have one, a single class, a class
            that cannot be in all training and validation parts, a group at two sites, or repeated ids.
        ConfigError: Columns that no case has, or that are empty.
    """
    check_unique(cases)
    scheme = config.scheme
    used = {*train, *validation, *test} if scheme == "predefined" else {case.id for case in cases}
    _check_labels([case for case in cases if case.id in used])
    left_out = _left_out(scheme, cases)
    columns = list(config.stratify)
    if left_out and left_out not in columns:
        # With whole sites gone from training, the inner validation part should still know all that are left.
        columns.insert(0, left_out)
    ready = with_strata(cases, columns, config.bins)
    if left_out:
        plan = _site_plan(ready, scheme, left_out, validation=config.validation, seed=seed)
    elif scheme == "hold-out":
        plan = _hold_out_plan(ready, config.test, validation=config.validation, repeats=config.repeats, seed=seed)
    elif scheme == "predefined":
        plan = predefined_plan(ready, train=train, validation=validation or config.validation, test=test, seed=seed)
    else:
        if scheme == "stratified-k-fold":
            _check_ungrouped(ready)
        plan = make_plan(
            ready, folds=config.folds, validation=config.validation, seed=seed, repeats=config.repeats, scheme=scheme
        )
    drawn_by: dict[str, Any] = {"stratify": columns, "bins": config.bins}
    return replace(plan, settings={**plan.settings, **drawn_by})


def make_plan(
    cases: Sequence[PlanCase],
    *,
    folds: int,
    validation: float,
    seed: int,
    repeats: int = 1,
    scheme: str = "stratified-group-k-fold",
) -> Plan:
    """Draw a k-fold plan over the strata of the cases, with an inner validation part per fold.

    In each repeat the tests of all folds partition the cases; a group never straddles the parts of a fold. Strata are
    balanced as far as whole groups allow (scikit-learn's StratifiedGroupKFold).

    Args:
        cases: In manifest order.
        folds: Number of folds, at least 2.
        validation: Share of each training part held out for selection, in (0, 1).
        seed: The run's seed.
        repeats: How often to draw anew; folds are numbered through.
        scheme: Name of the scheme in the plan.

    Raises:
        DataError: Too few groups, too few of a class, or duplicate ids.
        ConfigError: `folds`, `repeats` or `validation` out of range.
    """
    if folds < 2:
        raise ConfigError(f"Got {folds} fold(s); expected at least 2.")
    if repeats < 1:
        raise ConfigError(f"Got {repeats} repeats; expected at least 1.")
    check_unique(cases)
    groups = {case.group for case in cases}
    # Each training part needs two groups, one to train and one to select, also where folds get unequal shares.
    if len(groups) < folds or -(-len(groups) // folds) > len(groups) - 2:
        advice = f"Use crossval.folds={len(groups)}, or add" if len(groups) > 2 else "Add"
        raise DataError(
            f"{folds} folds with an inner validation part need at least {max(folds, 4 if folds == 2 else 3)} groups; "
            f"the {len(cases)} cases come from {counted(len(groups), 'group')}. {advice} patients or sequences."
        )
    drawn: list[Fold] = []
    for repeat in range(repeats):
        parts = draw_folds(cases, folds, derive_seed(seed, "plan", "repeat", repeat, "outer"))
        for number, chosen in enumerate(parts):
            test = [case for case in cases if case.group in chosen]
            rest = [case for case in cases if case.group not in chosen]
            inner = derive_seed(seed, "plan", "repeat", repeat, "fold", number, "inner")
            drawn.append(_fold(len(drawn), rest, test, validation, inner, repeat=repeat))
    settings = {"folds": folds, "repeats": repeats, "validation": validation}
    return Plan(scheme, seed, tuple(cases), tuple(drawn), settings)


def predefined_plan(
    cases: Sequence[PlanCase],
    *,
    train: Sequence[str],
    validation: float | Sequence[str],
    test: Sequence[str] = (),
    seed: int,
) -> Plan:
    """Plan a single fold whose parts are given.

    A validation part that is drawn from `train` keeps groups whole. Given parts are taken as they are: published splits
    do not always respect groups, and the leakage audit reports it.

    Args:
        cases: In manifest order; those in no part stay in the plan unused, so that a later change of them is noticed.
        train: Ids for training, and for drawing validation from when `validation` is a share.
        validation: Share of `train` to hold out, or the ids themselves.
        test: Ids to predict; may be empty.
        seed: The run's seed.

    Raises:
        DataError: Unknown or repeated ids, an empty part, too few groups to draw from, or a class that does not occur
            in the training and in the validation part.
    """
    by_id = {case.id: case for case in cases}
    given = [] if isinstance(validation, float) else list(validation)
    unknown = [name for name in [*train, *given, *test] if name not in by_id]
    if unknown:
        raise DataError(f"The split lists {some(unknown)}, which the manifest does not contain.")
    if not train:
        raise DataError("The split has no training cases; expected at least one.")
    tested = [by_id[name] for name in test]
    if isinstance(validation, float):
        pool = [by_id[name] for name in train]
        fold = _fold(0, pool, tested, validation, derive_seed(seed, "plan", "predefined", "inner"), name="The split")
    elif not given:
        raise DataError("The split has no validation cases; list some, or give the share of the training part to use.")
    else:
        fold = Fold(0, tuple(train), tuple(given), tuple(test))
    for label in groups_by_class([by_id[name] for ids in fold.parts.values() for name in ids]):
        for part in ("train", "validation"):
            if label not in {by_id[name].label for name in fold.parts[part]}:
                raise DataError(
                    f"The split has no case of class '{label}' in its {part} part; expected every class in "
                    "both. Change the split, or leave the cases of that class out."
                )
    settings = {"validation": validation if isinstance(validation, float) else None}
    return Plan("predefined", seed, tuple(cases), (fold,), settings)


def _site_plan(cases: Sequence[PlanCase], scheme: str, column: str, *, validation: float, seed: int) -> Plan:
    """Plan one fold per value of a column, such as the site, in sorted order; each tests the cases with its value."""
    value = {case.id: _value(case, column) for case in cases}
    without = [case.id for case in cases if not value[case.id]]
    if without:
        raise DataError(
            f"{len(without)} case(s) have no {column} ({some(without)}); {scheme} needs one for every case. Fill the "
            "column in the manifest, or use another crossval.scheme."
        )
    values = sorted(set(value.values()))
    if len(values) < 2:
        raise DataError(
            f"All {len(cases)} cases have the {column} '{values[0]}'; {scheme} needs at least 2, one to test and one "
            "to train. Use another crossval.scheme, such as stratified-group-k-fold."
        )
    homes: dict[str, set[str]] = {}
    for case in cases:
        homes.setdefault(case.group, set()).add(value[case.id])
    moved = [f"{group} ({', '.join(sorted(found))})" for group, found in homes.items() if len(found) > 1]
    if moved:
        raise DataError(
            f"{len(moved)} group(s) occur with more than one {column}: {some(moved)}. A subject in two of them would "
            f"be trained on and tested. Give its cases one {column}, or leave those of the others out; where they are "
            f"different subjects, make the {column} a part of their group."
        )
    drawn = []
    for index, left in enumerate(values):
        test = [case for case in cases if value[case.id] == left]
        rest = [case for case in cases if value[case.id] != left]
        inner = derive_seed(seed, "plan", "repeat", 0, "fold", index, "inner")
        drawn.append(_fold(index, rest, test, validation, inner, name=f"Fold {index} (without {column} '{left}')"))
    return Plan(scheme, seed, tuple(cases), tuple(drawn), {"left_out": column, "validation": validation})


def _hold_out_plan(cases: Sequence[PlanCase], share: float, *, validation: float, repeats: int, seed: int) -> Plan:
    """Plan one held-out test part per repeat; with several repeats, a case may be tested more than once, or never."""
    drawn = []
    for repeat in range(repeats):
        chosen = draw_test(cases, share, derive_seed(seed, "plan", "repeat", repeat, "test"))
        test = [case for case in cases if case.group in chosen]
        rest = [case for case in cases if case.group not in chosen]
        inner = derive_seed(seed, "plan", "repeat", repeat, "fold", 0, "inner")
        drawn.append(_fold(repeat, rest, test, validation, inner, repeat=repeat))
    settings = {"test": share, "repeats": repeats, "validation": validation}
    return Plan("hold-out", seed, tuple(cases), tuple(drawn), settings)


def _fold(
    index: int,
    rest: Sequence[PlanCase],
    test: Sequence[PlanCase],
    validation: float,
    seed: int,
    *,
    repeat: int = 0,
    name: str = "",
) -> Fold:
    classes = groups_by_class([*rest, *test])
    held = draw_validation(rest, validation, seed, classes=classes, where=name or f"Fold {index}")
    return Fold(
        index,
        train=tuple(case.id for case in rest if case.group not in held),
        validation=tuple(case.id for case in rest if case.group in held),
        test=tuple(case.id for case in test),
        repeat=repeat,
    )


def _left_out(scheme: str, cases: Sequence[PlanCase]) -> str:
    """The column whose values are left out one at a time; empty in other schemes."""
    if scheme == "leave-one-dataset-out":
        return "dataset" if any(_value(case, "dataset") for case in cases) else "site"
    return "site" if scheme == "leave-one-site-out" else ""


def _value(case: PlanCase, column: str) -> str:
    return known(case.site if column == "site" else case.covariates.get(column, ""))


def _check_ungrouped(cases: Sequence[PlanCase]) -> None:
    sizes = Counter(case.group for case in cases)
    shared = [group for group, count in sizes.items() if count > 1]
    if shared:
        members = [case.id for case in cases if case.group == shared[0]]
        raise DataError(
            f"The scheme stratified-k-fold assigns cases one by one, but {len(shared)} group(s) hold several "
            f"({some(shared)}; '{shared[0]}' holds {some(members)}): the same subject would be trained on and tested. "
            "Use crossval.scheme=stratified-group-k-fold."
        )


def _check_labels(cases: Sequence[PlanCase]) -> None:
    labels = {case.label for case in cases} - {""}
    without = [case.id for case in cases if not case.label]
    if labels and without:
        raise DataError(
            f"{len(without)} case(s) have no label ({some(without)}), the other {len(cases) - len(without)} do; "
            "expected one for every case. Label them, or leave them out of the manifest."
        )
    if len(labels) == 1:
        raise DataError(
            f"All {len(cases)} cases have the label '{labels.pop()}'; expected at least two classes to tell apart. "
            "Check the label column of the manifest."
        )
