"""A cohort like ABIDE I whose truth is known: three atlases of one brain, sites, confounds, a diagnosis.

A source's signal is that of its network plus its own, and each atlas mixes nearby sources (`brain.py`). Each difference
between subjects acts where it does in real cohorts: the diagnosis on the coupling of a few pairs of networks, age
and sex on that of others, the scanner on the noise, on the length of a scan and through an artifact of its own, head
motion on all regions at once. Same seed, same cohort; a subject does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medformer.data.connectomes.read.files import label_table, write_series
from medformer.data.synthetic.brain import SyntheticAtlas, sources, synthetic_atlases
from medformer.errors import ConfigError, UnknownNameError
from medformer.files import write_csv, write_json
from medformer.seeds import derive_seed

PHENOTYPE_FILE = "Phenotypic_V1_0b_preprocessed1.csv"
PLANTED_FILE = "planted.json"

REGIONS: Mapping[str, int] = MappingProxyType({"aal": 116, "cc200": 200, "dos160": 161})

# Two networks and whether the diagnosis binds them more (1) or less (-1).
Pair = tuple[str, str, float]
PAIRS: tuple[Pair, ...] = (("default", "fronto-parietal", -1.0), ("sensorimotor", "cerebellum", 1.0))

_AGE_PAIR = ("cingulo-opercular", "occipital")
_SEX_PAIR = ("fronto-parietal", "occipital")
_SUBJECT_SD = 0.12  # spread of a coupling between subjects
_AGE_SHIFT = 0.08  # per 10 years
_SEX_SHIFT = 0.06
_SOURCE_NOISE = 0.7  # a source's own signal, against 1 from its network
_REGION_NOISE = 0.4
_MOTION = 0.6  # common signal at a mean framewise displacement of 1 mm
_ARTIFACT = 0.3  # a scanner's own signal, strongest at one end of the brain

# Of the 106 columns of the real table, those that say something about a synthetic subject, in its order.
_COLUMNS = [
    "",
    "Unnamed: 0",
    "SUB_ID",
    "X",
    "subject",
    "SITE_ID",
    "FILE_ID",
    "DX_GROUP",
    "DSM_IV_TR",
    "AGE_AT_SCAN",
    "SEX",
    "FIQ",
    "EYE_STATUS_AT_SCAN",
    "func_mean_fd",
    "qc_rater_1",
    "qc_notes_rater_1",
    "qc_anat_rater_2",
    "qc_anat_notes_rater_2",
    "qc_func_rater_2",
    "qc_func_notes_rater_2",
    "qc_anat_rater_3",
    "qc_anat_notes_rater_3",
    "qc_func_rater_3",
    "qc_func_notes_rater_3",
    "SUB_IN_SMP",
]
_RATINGS = ("qc_rater_1", "qc_anat_rater_2", "qc_func_rater_2", "qc_anat_rater_3", "qc_func_rater_3")


@dataclass(frozen=True)
class Person:
    """Age in years, sex `"F"` or `"M"`, mean framewise displacement in mm."""

    age: float
    sex: str
    mean_fd: float


@dataclass(frozen=True)
class Scan:
    """One subject's scan.

    Attributes:
        number: The subject's number as in the phenotypic table (SUB_ID).
        id: Name of the scan's files (FILE_ID).
        site: Where (SITE_ID).
        label: Diagnosis, 1 or 0.
        person: Age, sex, motion.
        series: By atlas, float32 (volumes, regions), arbitrary units.
    """

    number: int
    id: str
    site: str
    label: int
    person: Person
    series: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Planted:
    """What the diagnosis acts on.

    Attributes:
        effect: Shift of a coupling, in standard deviations between subjects.
        pairs: The pairs of networks.
        edges: By atlas, whether an edge joins such a pair, bool (edges,) in the order of `np.triu_indices(regions, 1)`;
            all False without an effect.
    """

    effect: float
    pairs: tuple[Pair, ...]
    edges: Mapping[str, NDArray[np.bool_]]


class SyntheticAbide:
    """Scans by number; any of them can be made alone."""

    def __init__(
        self,
        regions: Mapping[str, int] = REGIONS,
        *,
        sites: int = 4,
        effect: float = 1.0,
        pairs: tuple[Pair, ...] = PAIRS,
        site_effect: float = 1.0,
        volumes: int = 160,
        seed: int = 0,
    ) -> None:
        """Lay out the brain and the sites.

        Args:
            regions: Number of regions of each atlas, at least 12.
            sites: Number of scanners; subjects come to them in turn, half of each site's with the diagnosis.
            effect: Shift of the diagnosed subjects' couplings, in standard deviations between subjects; 0 for none.
            pairs: The couplings that the diagnosis shifts, and in which direction.
            site_effect: Strength of what a scanner does to signals; 0 for none. Ages and lengths differ in any case.
            volumes: Length of a scan on average; a site's are up to 20 % shorter or longer.
            seed: Same seed, same cohort.

        Raises:
            ConfigError: A number or a network that makes no sense.
        """
        if sites < 1 or volumes < 20:
            raise ConfigError(f"Got sites={sites}, volumes={volumes}; expected at least 1 site and 20 volumes.")
        self.networks = sources().networks
        self.atlases = synthetic_atlases(regions)
        self.effect, self.pairs, self.sites, self.seed = effect, pairs, sites, seed
        self._diagnosis = [(self._pair(first, second), direction) for first, second, direction in pairs]
        self._site_effect, self._volumes = site_effect, volumes
        rng = np.random.default_rng(derive_seed(seed, "abide", "cohort"))
        self._baseline = mirrored(rng.normal(0.1, 0.1, (len(self.networks), len(self.networks))))
        self._loading = rng.uniform(0.9, 1.4, len(sources().network))

    @property
    def planted(self) -> Planted:
        """The truth."""
        edges = {}
        for name, atlas in self.atlases.items():
            joined = np.zeros(atlas.regions * (atlas.regions - 1) // 2, bool)
            for pair, direction in self._diagnosis:
                joined |= atlas.between(*pair) & (direction * self.effect != 0)
            edges[name] = joined
        return Planted(self.effect, self.pairs, edges)

    def scan(self, index: int) -> Scan:
        """Scan subject `index`."""
        site, label = index % self.sites, index // self.sites % 2
        scanner = np.random.default_rng(derive_seed(self.seed, "abide", "site", site))
        mean_age, length, noise = scanner.uniform(12.0, 24.0), scanner.uniform(0.8, 1.2), scanner.uniform(0.8, 1.25)
        direction = scanner.normal(size=3)
        rng = np.random.default_rng(derive_seed(self.seed, "abide", "subject", index))
        person = draw_person(rng, mean_age, label)
        coupling = (
            self._baseline + mirrored(rng.normal(0.0, _SUBJECT_SD, self._baseline.shape)) - np.eye(len(self.networks))
        )
        for pair, sign in self._diagnosis:
            shift(coupling, pair, sign * self.effect * _SUBJECT_SD * label)
        shift(coupling, self._pair(*_AGE_PAIR), _AGE_SHIFT * (person.age - 18.0) / 10.0)
        shift(coupling, self._pair(*_SEX_PAIR), _SEX_SHIFT * (person.sex == "M"))

        volumes = round(self._volumes * length)
        brain = sources()
        networks = rng.standard_normal((volumes, len(self.networks))) @ root(coupling)
        own = self._loading * rng.uniform(0.7, 1.3, len(brain.network))
        signals = networks[:, brain.network] * own
        signals += _SOURCE_NOISE * rng.standard_normal(signals.shape)
        motion = _MOTION * np.sqrt(person.mean_fd) * rng.standard_normal((volumes, 1))
        artifact = self._site_effect * _ARTIFACT * rng.standard_normal((volumes, 1))
        level = _REGION_NOISE * noise**self._site_effect
        series = {}
        for name, atlas in self.atlases.items():
            # A stream of its own, so that leaving an atlas out does not change the others.
            local = np.random.default_rng(derive_seed(self.seed, "abide", "subject", index, name))
            received = signals @ atlas.mixing.T + level * local.standard_normal((volumes, atlas.regions))
            received += motion + artifact * _gradient(atlas, direction)
            series[name] = (10.0 * received).astype(np.float32)
        number = 90001 + index
        return Scan(number, f"Site{site + 1}_{number:07d}", f"SITE{site + 1}", label, person, series)

    def _pair(self, first: str, second: str) -> tuple[int, int]:
        for name in (first, second):
            if name not in self.networks:
                raise UnknownNameError("network", name, self.networks)
        if first == second:
            raise ConfigError(f"Got the pair '{first}' and '{second}'; a coupling needs two different networks.")
        return self.networks.index(first), self.networks.index(second)


def _gradient(atlas: SyntheticAtlas, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly each region meets a scanner's artifact: 0 to 1 along a direction through the brain, (regions,)."""
    along = atlas.coordinates @ (direction / np.linalg.norm(direction))
    return np.asarray(np.clip(0.5 + along / 140.0, 0.0, 1.0))


def write_synthetic_abide(
    folder: Path,
    *,
    subjects: int = 120,
    regions: Mapping[str, int] = REGIONS,
    sites: int = 4,
    effect: float = 1.0,
    volumes: int = 160,
    seed: int = 0,
) -> Planted:
    """Write a cohort and what the diagnosis acts on.

    `Outputs/cpac/filt_noglobal/rois_<atlas>/<id>_rois_<atlas>.1D` holds the series and `Phenotypic_V1_0b_...csv` the
    subjects, as in the project (dos160 is called dosenbach160 there). Beside them stand `planted.json` and
    `Outputs/labels/<atlas>_labels.csv` with index, name, network, x, y, z of every region.

    Args:
        folder: Where to; created if missing.
        subjects: Number of subjects; half of each site's (rounded down) carry the diagnosis.
        regions: Number of regions of each atlas, at least 12. Give an atlas of another size than the real one another
            name: readers refuse an `aal` that has not 116 regions.
        sites: Number of scanners.
        effect: Shift of the diagnosed subjects' couplings, in standard deviations between subjects; 0 for none. Of 120
            subjects with 1, cohorts differ: a ridge reaches an AUC of 0.62 to 0.83 in 10 folds, and of the edges that
            a t-test ranks highest, 79 to 100 % are planted ones; with 2, it is 0.90 to 0.98 and all.
        volumes: Length of a scan on average.
        seed: Same seed, same files.

    Raises:
        ConfigError: A number or a network that makes no sense.
        ResourceError: The folder is not writable or the disk is full.
    """
    if subjects < 1:
        raise ConfigError(f"Got subjects={subjects}; expected at least one.")
    cohort = SyntheticAbide(regions, sites=sites, effect=effect, volumes=volumes, seed=seed)
    folder = Path(folder)
    series = folder / "Outputs" / "cpac" / "filt_noglobal"
    rows = []
    for index in range(subjects):
        scan = cohort.scan(index)
        for name, values in scan.series.items():
            write_series(series, scan.id, name, values, range(1, values.shape[1] + 1))
        rows.append(_phenotype(index, scan))
    write_csv(folder / PHENOTYPE_FILE, rows, _COLUMNS)
    for name, atlas in cohort.atlases.items():
        columns = ("index", "name", "network", "x", "y", "z")
        write_csv(label_table(folder, name), atlas.table(), columns)
    planted = cohort.planted
    write_json(
        folder / PLANTED_FILE,
        {
            "effect": planted.effect,
            "pairs": [list(pair) for pair in planted.pairs],
            "sizes": {name: int(edges.size) for name, edges in planted.edges.items()},
            "planted": {name: np.flatnonzero(edges).tolist() for name, edges in planted.edges.items()},
        },
    )
    return planted


def draw_person(rng: np.random.Generator, mean_age: float, label: int) -> Person:
    """Draw a person from a site whose people are `mean_age` years old on average; `label` 1 is the diagnosis."""
    age = float(np.clip(rng.normal(mean_age, 4.0), 6.0, 60.0))
    sex = "M" if rng.random() < 0.75 else "F"
    # Children move more than adults, and diagnosed subjects a little more than others.
    mean_fd = float(np.exp(rng.normal(-2.2 - 0.03 * (age - 18.0) + 0.1 * label, 0.4)))
    return Person(age, sex, mean_fd)


def mirrored(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The strict upper triangle of a square matrix mirrored, with ones on the diagonal."""
    upper = np.triu(matrix, 1)
    return np.asarray(upper + upper.T + np.eye(len(matrix)))


def shift(coupling: NDArray[np.float64], pair: tuple[int, int], by: float) -> None:
    """Change the coupling of two different networks in place, in both directions."""
    first, second = pair
    coupling[first, second] += by
    coupling[second, first] += by


def root(coupling: NDArray[np.float64]) -> NDArray[np.float64]:
    """A symmetric square root of the nearest covariance: shifted couplings need not be one any more."""
    values, vectors = np.linalg.eigh(coupling)
    return np.asarray(vectors * np.sqrt(np.clip(values, 0.02, None)) @ vectors.T)


def _phenotype(index: int, scan: Scan) -> dict[str, str | int]:
    return {
        **dict.fromkeys(_COLUMNS, ""),
        **dict.fromkeys(_RATINGS, "OK"),
        "": index,
        "Unnamed: 0": index + 1,
        "X": index + 1,
        "SUB_ID": scan.number,
        "subject": scan.number,
        "SITE_ID": scan.site,
        "FILE_ID": scan.id,
        "DX_GROUP": 1 if scan.label == 1 else 2,
        "DSM_IV_TR": scan.label,
        "AGE_AT_SCAN": f"{scan.person.age:.2f}",
        "SEX": 1 if scan.person.sex == "M" else 2,
        "EYE_STATUS_AT_SCAN": 1,
        "func_mean_fd": f"{scan.person.mean_fd:.6f}",
        "SUB_IN_SMP": 1,
    }
