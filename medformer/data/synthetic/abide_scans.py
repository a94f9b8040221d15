"""Scans of a cohort like ABIDE I whose truth is known: three atlases of one brain, sites, confounds, a diagnosis.

A source's signal is that of its network plus its own, and each atlas mixes nearby sources (`brain.py`). Everything that
tells subjects apart acts where it does in real cohorts: the diagnosis on the coupling of a few pairs of networks, age
and sex on that of others, the scanner on the noise, on the length of a scan and through an artifact of its own, head
motion on all regions at once. Same seed, same cohort; a subject does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medformer.data.synthetic.brain import SyntheticAtlas, sources, synthetic_atlases
from medformer.data.synthetic.couplings import mirrored, root, shift
from medformer.data.synthetic.people import Person, draw_person
from medformer.errors import ConfigError, UnknownNameError
from medformer.seeds import derive_seed

REGIONS: Mapping[str, int] = MappingProxyType({"aal": 116, "cc200": 200, "dos160": 161})

# Two networks and whether the diagnosis binds them more (1) or less (-1).
Pair = tuple[str, str, float]
PAIRS: tuple[Pair, ...] = (("default", "fronto-parietal", -1.0), ("sensorimotor", "cerebellum", 1.0))

_AGE_PAIR = ("cingulo-opercular", "occipital")
_SEX_PAIR = ("fronto-parietal", "occipital")
_SUBJECT_SD = 0.12  # spread of a coupling between subjects
_AGE_SHIFT = 0.08  # per 10 years
_SEX_SHIFT = 0.06
_SOURCE_NOISE = 0.7  # a source's own signal, beside 1 from its network
_REGION_NOISE = 0.4
_MOTION = 0.6  # common signal at a mean framewise displacement of 1 mm
_ARTIFACT = 0.3  # a scanner's own signal, strongest at one end of the brain


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
