from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import read_planted
from scipy.stats import ttest_ind

from medformer.data.connectomes.cohort import read_cohort
from medformer.data.connectomes.prepare.cohort_preparation import prepare_cohort
from medformer.data.connectomes.read.files import label_table
from medformer.data.synthetic.abide import PHENOTYPE_FILE, Scan, SyntheticAbide, write_synthetic_abide
from medformer.data.synthetic.brain import sources, synthetic_atlas
from medformer.errors import ConfigError, DataError, UnknownNameError

SMALL = {"coarse": 24, "fine": 36}


def connectomes(scans: list[Scan], atlas: str) -> NDArray[np.float64]:
    """Fisher-transformed correlations, (subjects, edges)."""
    upper = np.triu_indices(scans[0].series[atlas].shape[1], 1)
    return np.arctanh(np.stack([np.corrcoef(scan.series[atlas], rowvar=False)[upper] for scan in scans]))


def labels_of(scans: list[Scan]) -> NDArray[np.int64]:
    return np.array([scan.label for scan in scans])


def precision(effect: float, seed: int = 0, label_seed: int | None = None) -> float:
    """Share of planted edges among as many edges that a t-test ranks highest."""
    cohort = SyntheticAbide({"fine": 36}, effect=effect, seed=seed)
    scans = [cohort.scan(index) for index in range(120)]
    labels = labels_of(scans)
    if label_seed is not None:
        labels = np.random.default_rng(label_seed).permutation(labels)
    edges, planted = connectomes(scans, "fine"), cohort.planted.edges["fine"]
    statistic = np.abs(ttest_ind(edges[labels == 1], edges[labels == 0]).statistic)
    return float(planted[np.argsort(-statistic)[: planted.sum()]].mean())


def test_a_t_test_finds_the_planted_edges_and_permuted_labels_do_not() -> None:
    assert np.mean([precision(1.0, seed) for seed in (0, 1)]) >= 0.9
    assert np.mean([precision(1.0, 0, label_seed) for label_seed in range(5)]) < 0.4


def test_without_an_effect_nothing_is_planted_and_groups_are_alike() -> None:
    cohort = SyntheticAbide({"fine": 36}, effect=0.0)
    assert not cohort.planted.edges["fine"].any()
    where = SyntheticAbide({"fine": 36}, effect=1.0).planted.edges["fine"]
    scans = [cohort.scan(index) for index in range(160)]
    edges, labels = connectomes(scans, "fine"), labels_of(scans)
    difference = edges[labels == 1].mean(axis=0) - edges[labels == 0].mean(axis=0)
    assert np.abs(difference[where] / edges.std(axis=0)[where]).mean() < 0.35


def test_the_direction_of_a_pair_is_that_of_its_edges() -> None:
    pairs = (("default", "occipital", -1.0), ("cerebellum", "cingulo-opercular", 1.0))
    cohort = SyntheticAbide({"fine": 36}, effect=3.0, pairs=pairs)
    scans = [cohort.scan(index) for index in range(80)]
    edges, labels = connectomes(scans, "fine"), labels_of(scans)
    difference = edges[labels == 1].mean(axis=0) - edges[labels == 0].mean(axis=0)
    for first, second, direction in pairs:
        between = cohort.atlases["fine"].between(cohort.networks.index(first), cohort.networks.index(second))
        assert between.any()
        assert np.sign(difference[between].mean()) == direction


def test_atlases_see_the_same_brain() -> None:
    cohort = SyntheticAbide({"one": 48, "two": 60}, site_effect=0.0)
    same, other = cohort.scan(0), cohort.scan(1)
    first, second = cohort.atlases["one"], cohort.atlases["two"]
    near = np.linalg.norm(first.coordinates[:, None] - second.coordinates[None], axis=2)
    near[first.network[:, None] != second.network[None]] = np.inf
    row, column = np.unravel_index(near.argmin(), near.shape)
    shared = np.corrcoef(same.series["one"][:, row], same.series["two"][:, column])[0, 1]
    length = min(len(same.series["one"]), len(other.series["two"]))
    apart = np.corrcoef(same.series["one"][:length, row], other.series["two"][:length, column])[0, 1]
    assert shared > 0.6 > 0.3 > abs(apart)


def test_a_scan_depends_neither_on_the_other_subjects_nor_on_the_other_atlases() -> None:
    both, alone = SyntheticAbide(SMALL, seed=2), SyntheticAbide({"fine": 36}, seed=2)
    both.scan(0)
    np.testing.assert_array_equal(both.scan(5).series["fine"], alone.scan(5).series["fine"])
    assert not np.array_equal(alone.scan(5).series["fine"], SyntheticAbide({"fine": 36}, seed=3).scan(5).series["fine"])


def test_regions_cover_every_network_and_real_sizes_are_the_default() -> None:
    for regions in (12, 36, 200):
        atlas = synthetic_atlas("some", regions)
        assert set(atlas.networks) == set(sources().networks)
        assert len(set(atlas.names)) == regions == atlas.regions
        np.testing.assert_allclose(atlas.mixing.sum(axis=1), 1.0)
    counts = {name: atlas.regions for name, atlas in SyntheticAbide().atlases.items()}
    assert counts == {"aal": 116, "cc200": 200, "dos160": 161}


def test_people_differ_between_sites_and_the_diagnosis_does_not() -> None:
    cohort = SyntheticAbide({"coarse": 12}, sites=3, volumes=20)
    scans = [cohort.scan(index) for index in range(120)]
    ages, lengths = [], set()
    for site in ("SITE1", "SITE2", "SITE3"):
        there = [scan for scan in scans if scan.site == site]
        assert labels_of(there).mean() == 0.5
        ages.append(np.mean([scan.person.age for scan in there]))
        lengths.add(len(there[0].series["coarse"]))
    assert max(ages) - min(ages) > 1.0
    assert len(lengths) > 1


def test_a_scanner_changes_connectomes_as_strongly_as_asked() -> None:
    def between_sites(strength: float) -> float:
        cohort = SyntheticAbide({"coarse": 24}, sites=2, effect=0.0, site_effect=strength, seed=1)
        scans = [cohort.scan(index) for index in range(80)]
        edges, first = connectomes(scans, "coarse"), np.array([scan.site == "SITE1" for scan in scans])
        return float(np.abs(edges[first].mean(axis=0) - edges[~first].mean(axis=0)).mean())

    assert between_sites(3.0) > 1.5 * between_sites(0.0)


def test_the_files_are_those_of_the_project(tmp_path: Path) -> None:
    regions = {"coarse": 24, "dos160": 161}
    planted = write_synthetic_abide(tmp_path, subjects=6, regions=regions, volumes=30, seed=4)
    cohort = SyntheticAbide(regions, volumes=30, seed=4)
    with open(tmp_path / PHENOTYPE_FILE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["FILE_ID"] for row in rows] == [cohort.scan(index).id for index in range(6)]
    assert [row["DX_GROUP"] for row in rows] == ["2", "2", "2", "2", "1", "1"]
    assert {row["SEX"] for row in rows} <= {"1", "2"}
    folder = tmp_path / "Outputs" / "cpac" / "filt_noglobal"
    for atlas, kind in (("coarse", "rois_coarse"), ("dos160", "rois_dosenbach160")):
        path = folder / kind / f"{rows[5]['FILE_ID']}_{kind}.1D"
        assert path.read_text().startswith("#1\t#2\t")
        np.testing.assert_allclose(np.loadtxt(path), cohort.scan(5).series[atlas], rtol=1e-5)
        with open(label_table(tmp_path, atlas), newline="", encoding="utf-8") as file:
            labels = list(csv.DictReader(file))
        assert tuple(labels[0]) == ("index", "name", "network", "x", "y", "z")
        assert [row["name"] for row in labels] == list(cohort.atlases[atlas].names)
    again = read_planted(tmp_path)
    assert (again.effect, again.pairs) == (planted.effect, planted.pairs)
    for atlas in regions:
        np.testing.assert_array_equal(again.edges[atlas], planted.edges[atlas])
        assert 0 < planted.edges[atlas].mean() < 0.2


def test_the_readers_of_the_project_s_layout_take_it_with_names_networks_and_places(tmp_path: Path) -> None:
    regions = {"coarse": 24, "dos160": 161}
    write_synthetic_abide(tmp_path / "abide", subjects=6, regions=regions, volumes=40)
    labels = {atlas: label_table(tmp_path / "abide", atlas) for atlas in regions}
    prepared = prepare_cohort(tmp_path / "abide", tmp_path / "cohort", labels=labels)
    cohort, drawn = read_cohort(prepared.manifest), SyntheticAbide(regions, volumes=40)
    assert not prepared.excluded
    for index, subject in enumerate(cohort.cases):
        scan = drawn.scan(index)
        assert (subject.id, subject.site, subject.label) == (scan.id, scan.site, scan.label)
        assert subject.covariates["sex"] == scan.person.sex
        assert float(subject.covariates["mean_fd"]) == pytest.approx(scan.person.mean_fd, abs=1e-5)
        np.testing.assert_allclose(cohort.store.series("dos160", subject.id), scan.series["dos160"], rtol=1e-5)
    block = cohort.store.atlases["coarse"]
    assert (block.names, block.networks) == (drawn.atlases["coarse"].names, drawn.atlases["coarse"].networks)
    np.testing.assert_allclose(np.array(block.coordinates), drawn.atlases["coarse"].coordinates, atol=0.05)


def test_a_truth_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_planted(tmp_path)
    (tmp_path / "planted.json").write_text('{"sizes": {"aal": 3}}')
    with pytest.raises(DataError, match="not the truth of a synthetic cohort"):
        read_planted(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"regions": {"fine": 11}}, "expected at least 12"),
        ({"regions": {}}, "no atlas"),
        ({"sites": 0}, "at least 1 site"),
        ({"volumes": 19}, "20 volumes"),
        ({"pairs": (("default", "default", 1.0),)}, "two different networks"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticAbide(**{"regions": SMALL, **wrong})


def test_an_unknown_network_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'occipital'"):
        SyntheticAbide(SMALL, pairs=(("default", "ocipital", 1.0),))


def test_a_cohort_without_subjects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="subjects=0"):
        write_synthetic_abide(tmp_path, subjects=0)
