"""A generator of resting-state connectomes whose truth is known: latent networks, sites, confounds, a diagnosis.

A region's signal is the signal of its network plus noise of its own, and a subject's connectome is the correlation of
these signals over a scan. Everything that tells subjects apart acts where it does in real cohorts: the diagnosis on the
coupling of a few pairs of networks, age and sex on that of others, the scanner on the noise and on a fixed pattern of
edges, head motion on all regions at once. Same seed, same cohort; a subject does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medformer.data.synthetic.abide import draw_person, mirrored, root, shift
from medformer.errors import ConfigError
from medformer.seeds import derive_seed

_NETWORKS = 8
_SCAN = 150  # volumes; sets the sampling noise of a correlation

# Pairs of networks whose coupling a property of the subject shifts.
_DIAGNOSIS_PAIRS = ((0, 1), (2, 3), (4, 5))
_AGE_PAIRS = ((1, 2), (6, 7))
_SEX_PAIRS = ((3, 4),)

_SUBJECT_SD = 0.12  # spread of a coupling between subjects
_AGE_SHIFT = 0.08  # per 10 years
_SEX_SHIFT = 0.06
_SITE_EDGE_SD = 0.015  # pattern that a scanner adds to correlations
_REGION_NOISE = 1.0


@dataclass(frozen=True)
class Connectomes:
    """A cohort; row `i` of every array is scan `i`.

    Attributes:
        ids: One per scan.
        groups: The subject that was scanned.
        sites: Where.
        labels: Diagnosis, 1 or 0, shape (n,).
        ages: Years, shape (n,).
        sexes: `"F"` or `"M"`.
        mean_fd: Mean framewise displacement, mm, shape (n,).
        edges: Pearson correlations, upper triangle in the order of `np.triu_indices(regions, 1)`, float32 (n, edges).
        planted: Which edges the diagnosis acts on, bool (edges,); all False without an effect.
        regions: Number of regions.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    sites: tuple[str, ...]
    labels: NDArray[np.int64]
    ages: NDArray[np.float64]
    sexes: tuple[str, ...]
    mean_fd: NDArray[np.float64]
    edges: NDArray[np.float32]
    planted: NDArray[np.bool_]
    regions: int

    @property
    def features(self) -> Mapping[str, NDArray[np.float32]]:
        """Fisher-transformed edges, float32 (edges,), by id."""
        transformed = np.arctanh(np.clip(self.edges, -0.999, 0.999))
        return dict(zip(self.ids, transformed, strict=True))

    def table(self) -> list[dict[str, str]]:
        """One row per scan as a manifest would hold it: id, group, site, label, age, sex, mean_fd."""
        return [
            {
                "id": self.ids[row],
                "group": self.groups[row],
                "site": self.sites[row],
                "label": str(self.labels[row]),
                "age": f"{self.ages[row]:.1f}",
                "sex": self.sexes[row],
                "mean_fd": f"{self.mean_fd[row]:.3f}",
            }
            for row in range(len(self.ids))
        ]


def synthetic_connectomes(
    subjects: int = 120,
    *,
    scans: int = 1,
    sites: int = 4,
    regions: int = 40,
    effect: float = 1.0,
    site_effect: float = 1.0,
    seed: int = 0,
) -> Connectomes:
    """Draw a cohort.

    Args:
        subjects: Number of subjects; half of each site's (rounded down) carry the diagnosis.
        scans: Scans of each subject, alike in all but the sampling noise.
        sites: Number of scanners; subjects come to them in turn.
        regions: Number of regions; they belong to 8 networks in equal shares.
        effect: Shift of the diagnosed subjects' couplings, in standard deviations between subjects; 0 for none.
        site_effect: Strength of what a scanner adds; 0 for none. Ages differ between sites in any case.
        seed: Same seed, same cohort.

    Raises:
        ConfigError: A number that makes no sense.
    """
    if min(subjects, scans, sites) < 1 or regions < _NETWORKS:
        raise ConfigError(
            f"Got subjects={subjects}, scans={scans}, sites={sites}, regions={regions}; expected at least one subject, "
            f"scan and site, and {_NETWORKS} regions."
        )
    network = np.arange(regions) * _NETWORKS // regions
    upper = np.triu_indices(regions, 1)
    shared = np.random.default_rng(derive_seed(seed, "connectomes", "cohort"))
    baseline = mirrored(shared.normal(0.1, 0.15, (_NETWORKS, _NETWORKS)))
    loading = shared.uniform(0.9, 1.7, regions)
    scanners = [np.random.default_rng(derive_seed(seed, "connectomes", "site", site)) for site in range(sites)]
    patterns = [scanner.normal(0.0, _SITE_EDGE_SD, len(upper[0])) for scanner in scanners]
    noises = [_REGION_NOISE * scanner.uniform(0.8, 1.25) ** site_effect for scanner in scanners]
    mean_ages = [scanner.uniform(12.0, 24.0) for scanner in scanners]

    rows: list[tuple[str, str, str, int, float, str, float]] = []
    edges = np.empty((subjects * scans, len(upper[0])), np.float32)
    for subject in range(subjects):
        rng = np.random.default_rng(derive_seed(seed, "connectomes", "subject", subject))
        site, turn = subject % sites, subject // sites
        label = turn % 2
        person = draw_person(rng, mean_ages[site], label)
        coupling = baseline + mirrored(rng.normal(0.0, _SUBJECT_SD, (_NETWORKS, _NETWORKS)))
        for pairs, by in (
            (_DIAGNOSIS_PAIRS, effect * _SUBJECT_SD * label),
            (_AGE_PAIRS, _AGE_SHIFT * (person.age - 18.0) / 10.0),
            (_SEX_PAIRS, _SEX_SHIFT * (person.sex == "M")),
        ):
            for pair in pairs:
                shift(coupling, pair, by)
        spread = root(coupling)
        own = loading * rng.uniform(0.6, 1.4, regions)  # how strongly each region follows its network
        for scan in range(scans):
            networks = rng.standard_normal((_SCAN, _NETWORKS)) @ spread
            noise = noises[site] * rng.standard_normal((_SCAN, regions))
            motion = np.sqrt(person.mean_fd) * rng.standard_normal((_SCAN, 1))
            correlation = np.corrcoef(networks[:, network] * own + noise + motion, rowvar=False)[upper]
            edges[len(rows)] = np.clip(correlation + site_effect * patterns[site], -0.999, 0.999)
            name = f"s{subject:04d}"
            scanned = name if scans == 1 else f"{name}_{scan}"
            rows.append((scanned, name, f"site{site}", label, person.age, person.sex, person.mean_fd))
    ids, groups, site_names, labels, ages, sexes, displacements = zip(*rows, strict=True)
    ends = network[upper[0]], network[upper[1]]
    between = np.logical_or.reduce([(ends[0] == first) & (ends[1] == second) for first, second in _DIAGNOSIS_PAIRS])
    return Connectomes(
        ids=ids,
        groups=groups,
        sites=site_names,
        labels=np.array(labels, np.int64),
        ages=np.array(ages),
        sexes=sexes,
        mean_fd=np.array(displacements),
        edges=edges,
        planted=between & (effect != 0),
        regions=regions,
    )
