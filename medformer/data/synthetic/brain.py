"""A brain of latent sources, and atlases of any size that measure the same sources.

The sources stand at the 160 coordinates of Dosenbach et al. (Science 2010), which nilearn ships, each in one of the six
networks named there. A region of an atlas lies near a source and mixes the close sources of that source's network; so
two atlases measure one signal at different places and resolutions, as parcellations of one scan do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from medformer.errors import ConfigError
from medformer.seeds import derive_seed

_SPREAD = 12.0  # mm within which a region mixes sources (standard deviation of a Gaussian)
_JITTER = 4.0  # mm between a region and the source that it lies near
_FEWEST = 12  # regions; two in each network


@dataclass(frozen=True)
class Sources:
    """Where the latent signals come from.

    Attributes:
        coordinates: MNI mm, (sources, 3).
        labels: Anatomical name of each.
        network: Index of each source's network, (sources,).
        networks: The networks' names.
    """

    coordinates: NDArray[np.float64]
    labels: tuple[str, ...]
    network: NDArray[np.int64]
    networks: tuple[str, ...]


@dataclass(frozen=True)
class SyntheticAtlas:
    """The regions of one atlas.

    Attributes:
        name: The atlas.
        names: Of the regions; no two are alike.
        network: Index into `Sources.networks`, (regions,).
        networks: Name of each region's network.
        coordinates: MNI mm, (regions, 3).
        mixing: Share of each source in each region's signal, rows sum to 1, (regions, sources).
    """

    name: str
    names: tuple[str, ...]
    network: NDArray[np.int64]
    networks: tuple[str, ...]
    coordinates: NDArray[np.float64]
    mixing: NDArray[np.float64]

    @property
    def regions(self) -> int:
        """Number of regions."""
        return len(self.names)

    def between(self, first: int, second: int) -> NDArray[np.bool_]:
        """Which edges, in the order of `np.triu_indices(regions, 1)`, join two networks; bool (edges,)."""
        upper = np.triu_indices(self.regions, 1)
        ends = self.network[upper[0]], self.network[upper[1]]
        forth, back = (ends[0] == first) & (ends[1] == second), (ends[0] == second) & (ends[1] == first)
        return np.asarray(forth | back)

    def table(self) -> list[dict[str, str | int]]:
        """One row per region: index (from 1, as label volumes count), name, network, x, y, z in mm."""
        return [
            {
                "index": region + 1,
                "name": self.names[region],
                "network": self.networks[region],
                **{axis: f"{value:.1f}" for axis, value in zip("xyz", self.coordinates[region], strict=True)},
            }
            for region in range(self.regions)
        ]


@cache
def sources() -> Sources:
    """Read the sources from nilearn's package; nothing is downloaded."""
    from nilearn.datasets import fetch_coords_dosenbach_2010

    table = fetch_coords_dosenbach_2010()
    networks = tuple(sorted({str(name) for name in table.networks}))
    return Sources(
        coordinates=table.rois[["x", "y", "z"]].to_numpy(np.float64),
        labels=tuple(re.sub(r"\s*\d+$", "", str(label)) for label in table.labels),
        network=np.array([networks.index(str(name)) for name in table.networks], np.int64),
        networks=networks,
    )


def synthetic_atlas(name: str, regions: int) -> SyntheticAtlas:
    """Lay `regions` regions over the brain, every network in proportion to its sources.

    The same name and number always give the same atlas, whatever a cohort's seed; regions are sorted by network.

    Raises:
        ConfigError: Too few regions.
    """
    if regions < _FEWEST:
        raise ConfigError(
            f"Got {regions} regions for the synthetic atlas '{name}'; expected at least {_FEWEST}, so that each of the "
            "6 networks has some."
        )
    brain = sources()
    rng = np.random.default_rng(derive_seed(0, "synthetic brain", name, regions))
    shuffled = rng.permutation(len(brain.network))
    order = shuffled[np.argsort(brain.network[shuffled], kind="stable")]
    anchors = order[np.arange(regions) * len(order) // regions]
    coordinates = brain.coordinates[anchors] + rng.normal(0.0, _JITTER, (regions, 3))
    squared = ((coordinates[:, None] - brain.coordinates[None]) ** 2).sum(axis=2)
    # One network per region: parcellations are drawn along functional borders.
    same = brain.network[anchors][:, None] == brain.network[None]
    weights = np.where(same, np.exp(-squared / (2.0 * _SPREAD**2)), 0.0)
    network = brain.network[anchors]
    return SyntheticAtlas(
        name=name,
        names=tuple(f"{brain.labels[source]} {number}" for number, source in enumerate(anchors, start=1)),
        network=network,
        networks=tuple(brain.networks[index] for index in network),
        coordinates=coordinates,
        mixing=weights / weights.sum(axis=1, keepdims=True),
    )


def synthetic_atlases(regions: Mapping[str, int]) -> dict[str, SyntheticAtlas]:
    """Several atlases by name.

    Raises:
        ConfigError: None, or too few regions in one.
    """
    if not regions:
        raise ConfigError("Got no atlas; a synthetic cohort needs at least one, with its number of regions.")
    return {name: synthetic_atlas(name, count) for name, count in regions.items()}
