from __future__ import annotations

import numpy as np
import pytest
from synthetic_connectomes import synthetic_connectomes

from medformer.errors import ConfigError


def test_the_same_seed_gives_the_same_cohort() -> None:
    first, again, other = (synthetic_connectomes(12, seed=seed) for seed in (3, 3, 4))
    assert first.edges.tobytes() == again.edges.tobytes()
    assert first.table() == again.table()
    assert not np.array_equal(first.edges, other.edges)


def test_a_subject_does_not_depend_on_how_many_there_are() -> None:
    few, many = synthetic_connectomes(8, seed=1), synthetic_connectomes(16, seed=1)
    np.testing.assert_array_equal(few.edges, many.edges[:8])
    assert few.table() == many.table()[:8]


def test_edges_are_correlations_of_every_pair_of_regions() -> None:
    cohort = synthetic_connectomes(10, regions=30)
    assert cohort.edges.shape == (10, 30 * 29 // 2)
    assert np.abs(cohort.edges).max() < 1.0
    assert set(cohort.features) == set(cohort.ids)
    np.testing.assert_allclose(np.tanh(cohort.features[cohort.ids[2]]), cohort.edges[2], atol=1e-6)


def test_the_diagnosis_acts_on_the_planted_edges_alone() -> None:
    cohort = synthetic_connectomes(400, effect=2.0, site_effect=0.0, seed=5)
    sick = cohort.labels == 1
    difference = cohort.edges[sick].mean(axis=0) - cohort.edges[~sick].mean(axis=0)
    deviations = difference / cohort.edges.std(axis=0)
    assert 0 < cohort.planted.sum() < cohort.planted.size / 4
    assert deviations[cohort.planted].mean() > 0.5
    assert np.abs(deviations[~cohort.planted]).mean() < 0.15
    assert not synthetic_connectomes(4, effect=0.0).planted.any()


def test_labels_are_balanced_within_sites_and_ages_are_not() -> None:
    cohort = synthetic_connectomes(120, sites=3)
    ages = []
    for site in ("site0", "site1", "site2"):
        there = np.array(cohort.sites) == site
        assert cohort.labels[there].mean() == 0.5
        ages.append(cohort.ages[there].mean())
    assert max(ages) - min(ages) > 1.0


def test_sites_differ_as_strongly_as_asked() -> None:
    def between_sites(strength: float) -> float:
        cohort = synthetic_connectomes(160, sites=2, effect=0.0, site_effect=strength, seed=2)
        first = np.array(cohort.sites) == "site0"
        shift = cohort.edges[first].mean(axis=0) - cohort.edges[~first].mean(axis=0)
        return float(np.abs(shift).mean())

    assert between_sites(3.0) > 1.5 * between_sites(0.0)


def test_scans_of_a_subject_resemble_each_other() -> None:
    cohort = synthetic_connectomes(30, scans=2, site_effect=0.0)
    assert cohort.groups[0] == cohort.groups[1] != cohort.groups[2]
    assert len(set(cohort.ids)) == 60
    centered = cohort.edges - cohort.edges.mean(axis=0)
    within = np.mean([np.corrcoef(centered[2 * i], centered[2 * i + 1])[0, 1] for i in range(30)])
    between = np.mean([np.corrcoef(centered[2 * i], centered[2 * i + 3])[0, 1] for i in range(28)])
    assert within > between + 0.2


@pytest.mark.parametrize("wrong", [{"subjects": 0}, {"scans": 0}, {"sites": 0}, {"regions": 7}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected at least one subject"):
        synthetic_connectomes(**{"subjects": 4, **wrong})
