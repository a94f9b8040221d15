from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medformer.crossval.plan import PlanCase
from medformer.crossval.plan.strata import quantile_bins, read_column, require_groups, with_strata
from medformer.errors import ConfigError, DataError


def column(*cells: str, name: str = "age") -> list[PlanCase]:
    return [PlanCase(f"c{i}", f"g{i}", covariates={name: cell}) for i, cell in enumerate(cells)]


def strata(cases: list[PlanCase], *columns: str, bins: int = 3) -> list[str]:
    return [case.stratum for case in with_strata(cases, columns, bins)]


def test_several_columns_make_one_text() -> None:
    cases = [
        PlanCase(f"c{i}", f"g{i}", site=site, label=label, covariates={"size": str(size)})
        for i, (site, label, size) in enumerate([("kvasir", "1", 0.1), ("clinic", "0", 0.5), ("kvasir", "0", 0.9)])
    ]
    assert strata(cases, "site", "size", bins=2) == [
        "site=kvasir, size 1 of 2",
        "site=clinic, size 1 of 2",
        "site=kvasir, size 2 of 2",
    ]
    assert strata(cases, "label", "site", "label")[0] == "label=1, site=kvasir"
    assert strata(cases) == ["", "", ""]
    # Nothing else of a case changes, and what it was balanced by before does not matter.
    again = with_strata(with_strata(cases, ["site"], 3), ["label"], 3)
    assert again == with_strata(cases, ["label"], 3)


def test_missing_values_are_a_stratum_of_their_own() -> None:
    assert strata(column("10", "", "NaN", "90", "50", "unknown"), "age", bins=2) == [
        "age 1 of 2",
        "age unknown",
        "age unknown",
        "age 2 of 2",
        "age 1 of 2",
        "age unknown",
    ]
    assert strata(column("F", " n/a ", "M", name="sex"), "sex") == ["sex=F", "sex unknown", "sex=M"]
    # A covariate that only some cases have.
    assert strata([*column("F", "M", name="sex"), PlanCase("last", "last")], "sex")[-1] == "sex unknown"


def test_few_numbers_are_categories_and_many_are_cut() -> None:
    assert strata(column("1", "2", "1.0", "3"), "age") == ["age=1", "age=2", "age=1", "age=3"]
    assert strata(column("1", "2", "3", "4"), "age", bins=2) == ["age 1 of 2"] * 2 + ["age 2 of 2"] * 2
    # Two values are two categories, however few bins there are.
    assert strata(column("1", "2", "1"), "age", bins=1) == ["age=1", "age=2", "age=1"]
    assert strata(column("1", "2", "3"), "age", bins=1) == ["age 1 of 1"] * 3
    assert strata(column("1", "2", "3", "four"), "age") == ["age=1", "age=2", "age=3", "age=four"]


def test_labels_and_sites_are_categories_however_they_are_spelled() -> None:
    cases = [PlanCase(f"c{i}", f"g{i}", site=str(i), label=str(i)) for i in range(9)]
    assert strata(cases, "label", "site", bins=2)[8] == "label=8, site=8"


def test_no_site_at_all_is_nothing_to_balance_by() -> None:
    assert set(strata(column("1", "2", "3"), "site")) == {"site unknown"}


@pytest.mark.parametrize("name", ["age", "label"])
def test_a_column_without_a_value_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"by '{name}': none of the 3 cases has a value"):
        with_strata(column("", "nan", " None "), ["site", name], 3)


def test_an_unknown_column_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'aeg'. Did you mean 'age'\? Known: age, label, site"):
        with_strata(column("1", "2"), ["aeg"], 3)
    with pytest.raises(ConfigError, match="Known: label, site"):
        with_strata([], ["age"], 3)


def test_infinite_numbers_are_named() -> None:
    with pytest.raises(DataError, match=r"'age' holds an infinite number for c1"):
        with_strata(column("1", "-inf", "3"), ["age"], 3)
    assert strata(column("inf", "sup", name="wall"), "wall") == ["wall=inf", "wall=sup"]
    # A column that nothing is balanced by is only read.
    assert read_column(column("1", "2", "3", "inf"), "age", 2).known == (True, True, True, False)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 bins"):
        with_strata(column("1"), ["age"], 0)


def test_quantile_bins_are_even_and_ties_stay_together() -> None:
    values = list(np.random.default_rng(0).random(99))
    assert set(Counter(quantile_bins(values, 3)).values()) == {33}
    order = np.argsort(values)
    assert list(np.diff(np.array(quantile_bins(values, 3))[order]) >= 0) == [True] * 98
    assert quantile_bins([5.0] * 4 + [float("nan")], 3) == [0, 0, 0, 0, -1]
    assert quantile_bins([1.0, 2.0], 1) == [0, 0]
    assert quantile_bins([float("nan")], 3) == [-1]


def test_quantile_bins_have_no_gaps() -> None:
    for seed in range(200):
        draw = np.random.default_rng(seed)
        values = draw.choice([0.0, 1.0, 2.0, 5.0, float("nan")], size=int(draw.integers(1, 12)))
        bins = quantile_bins(list(values), int(draw.integers(1, 7)))
        used = sorted(set(bins) - {-1})
        assert used == list(range(len(used)))
        assert [b == -1 for b in bins] == list(np.isnan(values))


def test_columns_that_make_no_subgroups_are_refused() -> None:
    require_groups(column(*map(str, range(30)), name="height"), ["height"])
    require_groups(column("GE", "", name="scanner"), ["scanner"])
    with pytest.raises(ConfigError, match=r"scaner.*scanner"):
        require_groups(column("GE", name="scanner"), ["scaner"])
    with pytest.raises(ConfigError, match="none of the 2 cases has a value in 'scanner'"):
        require_groups(column("", "", name="scanner"), ["scanner"])
    with pytest.raises(ConfigError, match="has 21 different values, such as 'p0'; expected at most 20"):
        require_groups(column(*(f"p{k}" for k in range(21)), name="patient"), ["patient"])
