"""A cohort as what estimators and networks learn from: vectors by id, and the inputs of a fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from medformer.config import AbideConfig
from medformer.connectome.columns import COVARIATES, Columns, FeatureBlock
from medformer.connectome.pipeline import feature_pipeline
from medformer.crossval.plan import Fold, some
from medformer.data.connectomes.cohort import Cohort
from medformer.data.manifest import Case
from medformer.data.tables import known
from medformer.errors import ConfigError, DataError
from medformer.inference.single_thread import single_thread

Inputs = dict[str, NDArray[np.float32]]
"""By atlas, float32 (n, d)."""


class CohortFeatures(Mapping[str, NDArray[np.float32]]):
    """The raw features of a cohort, a vector per id laid out as `columns` says; rows are read when asked for.

    Args:
        cohort: The subjects and their store.
        config: Which atlases and measure; which covariates the features need.
        sites: Names that the column of sites counts in; the cohort's own without it.

    Raises:
        ConfigError: An atlas that the cohort lacks.
        DataError: A covariate that the config needs is not known for every subject.
    """

    def __init__(self, cohort: Cohort, config: AbideConfig, sites: Sequence[str] | None = None) -> None:
        self.cohort = cohort
        self._config = config
        measure = config.data.measure
        atlases = config.data.atlases or tuple(cohort.store.atlases)
        lacking = [name for name in atlases if name not in cohort.store.atlases]
        if lacking:
            raise ConfigError(
                f"data.atlases: {', '.join(lacking)} not in {cohort.path}, which holds "
                f"{', '.join(cohort.store.atlases)}. Prepare the cohort with them, or choose among these."
            )
        self._blocks = {name: cohort.store.block(name, measure) for name in atlases}
        self.columns = Columns(
            tuple(FeatureBlock(name, measure, cohort.store.atlases[name].regions) for name in atlases),
            _known_covariates(cohort, _needed(config)),
            tuple(sites if sites is not None else sorted({subject.site for subject in cohort.cases if subject.site})),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the same files instead of receiving their numbers.
        return CohortFeatures, (self.cohort, self._config, self.columns.sites)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        subject, row = self.cohort.by_id[name], self.cohort.store.rows[name]
        covariates = [_number(subject, covariate, self.columns.sites) for covariate in self.columns.covariates]
        return np.concatenate([*(block[row] for block in self._blocks.values()), np.array(covariates, np.float32)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.cohort.by_id)

    def __len__(self) -> int:
        return len(self.cohort.cases)

    @cached_property
    def regions(self) -> dict[str, int]:
        """Regions of each atlas."""
        return {block.atlas: block.regions for block in self.columns.blocks}

    @property
    def diagonal(self) -> bool:
        """Whether vectors hold the diagonals of their matrices."""
        return self.columns.blocks[0].diagonal

    def rows(self, names: Sequence[str], columns: slice) -> NDArray[np.float32]:
        """Some columns of some subjects, (n, d)."""
        return np.stack([self[name][columns] for name in names])


@dataclass(frozen=True)
class FoldInputs:
    """What the networks of a fold are given, after every step that learns was fitted on the training part.

    Attributes:
        train: By atlas.
        validation: The same.
        test: The same.
        extra: Unlabeled subjects that only pretraining sees.
        unseen_sites: Subjects of the test part whose site no training subject is from.
    """

    train: Inputs
    validation: Inputs
    test: Inputs
    extra: Inputs
    unseen_sites: tuple[str, ...]


def fold_inputs(
    config: AbideConfig, features: CohortFeatures, fold: Fold, extra: CohortFeatures | None = None
) -> FoldInputs:
    """Fit each atlas's features on the fold's training part and apply them to all parts."""
    parts: dict[str, tuple[CohortFeatures, Sequence[str]]] = {part: (features, ids) for part, ids in fold.parts.items()}
    if extra is not None:
        parts["extra"] = (extra, list(extra))
    made: dict[str, Inputs] = {"train": {}, "validation": {}, "test": {}, "extra": {}}
    everything = slice(None)
    with single_thread():
        learned = features.rows(fold.train, everything)
        for block in features.columns.blocks:
            pipeline = atlas_pipeline(config, features.columns, block.atlas).fit(learned)
            for part, (source, ids) in parts.items():
                if ids:
                    rows = learned if part == "train" else source.rows(ids, everything)
                    made[part][block.atlas] = np.asarray(pipeline.transform(rows), np.float32)
    trained = {features.cohort.by_id[name].site for name in fold.train}
    unseen = tuple(name for name in fold.test if features.cohort.by_id[name].site not in trained)
    return FoldInputs(made["train"], made["validation"], made["test"], made["extra"], unseen)


def atlas_pipeline(config: AbideConfig, columns: Columns, atlas: str) -> Pipeline:
    """The unfitted steps of one atlas that a config asks for."""
    wanted = config.features
    return feature_pipeline(
        columns,
        atlas,
        fisher=wanted.fisher,
        confounds=wanted.confounds,
        harmonize=wanted.harmonize,
        preserve=wanted.preserve,
        unseen_site=wanted.unseen_site,
        scale=wanted.scale,
    )


def _needed(config: AbideConfig) -> set[str]:
    """Covariates that the features cannot do without."""
    wanted = config.features
    combat = {"site", *wanted.preserve} if wanted.harmonize == "combat" else set()
    return {*wanted.confounds, *combat}


def _known_covariates(cohort: Cohort, needed: set[str]) -> tuple[str, ...]:
    """Those that every subject has; the rest are left out, unless they are needed."""
    found = []
    for name in COVARIATES:
        missing = [subject.id for subject in cohort.cases if not _text(subject, name)]
        if not missing:
            found.append(name)
        elif name in needed:
            raise DataError(
                f"{len(missing)} subject(s) have no {name} ({some(missing)}), which features.confounds or "
                f"features.harmonize needs. Fill the column '{name}' of {cohort.path}, or leave {name} out of them."
            )
    return tuple(found)


def _text(subject: Case, name: str) -> str:
    return known(subject.site if name == "site" else subject.covariates.get(name, ""))


def _number(subject: Case, name: str, sites: Sequence[str]) -> float:
    if name == "site":
        # A site beyond the names is one that was never seen.
        return float(sites.index(subject.site)) if subject.site in sites else float(len(sites))
    return subject.covariate(name)
