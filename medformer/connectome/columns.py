"""The meaning of each column of a feature matrix, for the steps of scikit-learn pipelines.

A feature matrix is (subjects, width): the blocks side by side, then one column per covariate. Every step of a pipeline
changes blocks and passes the covariates through, because a later step may need them (site, age, sex, motion).
"""

from __future__ import annotations

from dataclasses import dataclass

from medformer.connectome.measures import MEASURES, triangle_size
from medformer.errors import ConfigError

# How a covariate is written as a number.
COVARIATES = {
    "site": "index into the names of the sites",
    "age": "years",
    "sex": "0 female, 1 male",
    "mean_fd": "mean framewise displacement, mm",
}


@dataclass(frozen=True)
class FeatureBlock:
    """The connections of one atlas under one measure.

    Attributes:
        atlas: Name of the atlas.
        measure: What a connection is; a name in `MEASURES`.
        regions: Number of regions.
    """

    atlas: str
    measure: str
    regions: int

    def __post_init__(self) -> None:
        MEASURES[self.measure]  # raises on an unknown name
        if self.regions < 2:
            raise ConfigError(f"Atlas {self.atlas} has {self.regions} region(s); expected at least 2.")

    @property
    def diagonal(self) -> bool:
        """Whether the block holds the diagonal of its matrix."""
        return MEASURES[self.measure].part.diagonal

    @property
    def size(self) -> int:
        """Number of columns."""
        return triangle_size(self.regions, self.diagonal)


@dataclass(frozen=True)
class Columns:
    """The layout of a feature matrix.

    Attributes:
        blocks: From left to right.
        covariates: The columns after the blocks; names in `COVARIATES`.
        sites: Names of the sites; column `site` holds indices into it.
    """

    blocks: tuple[FeatureBlock, ...]
    covariates: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        atlases = [block.atlas for block in self.blocks]
        if not atlases or len(set(atlases)) < len(atlases):
            raise ConfigError(f"Got blocks of {', '.join(atlases) or 'no atlas'}; expected one block per atlas.")
        unknown = [name for name in self.covariates if name not in COVARIATES]
        if unknown or len(set(self.covariates)) < len(self.covariates):
            raise ConfigError(
                f"Got covariates {', '.join(self.covariates)}; expected each once, out of {', '.join(COVARIATES)}."
            )
        if "site" in self.covariates and not self.sites:
            raise ConfigError("Got a column of sites without the sites' names; expected the names it is an index into.")

    @property
    def atlases(self) -> tuple[str, ...]:
        """Names of the atlases, from left to right."""
        return tuple(block.atlas for block in self.blocks)

    @property
    def regions(self) -> dict[str, int]:
        """Number of regions of each atlas."""
        return {block.atlas: block.regions for block in self.blocks}

    @property
    def diagonal(self) -> bool:
        """Whether the blocks hold the diagonals of their matrices."""
        return self.blocks[0].diagonal

    @property
    def edges(self) -> int:
        """Number of columns of all blocks."""
        return sum(block.size for block in self.blocks)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.edges + len(self.covariates)

    def block(self, atlas: str) -> FeatureBlock:
        """The block of an atlas.

        Raises:
            ConfigError: There is none.
        """
        for block in self.blocks:
            if block.atlas == atlas:
                return block
        raise ConfigError(f"There are no features of atlas '{atlas}'; there are of {', '.join(self.atlases)}.")

    def slice(self, atlas: str) -> slice:
        """The columns of an atlas.

        Raises:
            ConfigError: It has none.
        """
        wanted = self.block(atlas)
        start = sum(block.size for block in self.blocks[: self.blocks.index(wanted)])
        return slice(start, start + wanted.size)

    def covariate(self, name: str) -> int:
        """The column of a covariate in the whole matrix.

        Raises:
            ConfigError: It has none.
        """
        return self.edges + self.covariate_position(name)

    def covariate_position(self, name: str) -> int:
        """The position of a covariate among the covariates, which holds at every step of a pipeline.

        Raises:
            ConfigError: It has none.
        """
        if name not in self.covariates:
            raise ConfigError(
                f"There is no column '{name}'; there are {', '.join(self.covariates) or 'no covariates'}. Add it to "
                "the cohort's manifest, or leave it out of the features."
            )
        return self.covariates.index(name)
