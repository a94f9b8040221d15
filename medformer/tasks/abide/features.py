"""A cohort as what estimators and networks learn from: vectors by id, and the inputs of a fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.pipeline import Pipeline

from medformer.config import AbideConfig
from medformer.connectome.columns import COVARIATES, Columns, FeatureBlock
from medformer.connectome.estimator_file import load_fitted, save_fitted
from medformer.connectome.measures import MEASURES
from medformer.connectome.pipeline import feature_pipeline
from medformer.crossval.plan import some
from medformer.data.cases import Case
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.prepare.reading import Layout
from medformer.errors import CheckpointError, ConfigError, DataError
from medformer.files import write_json
from medformer.inference.single_thread import single_thread
from medformer.missing import known
from medformer.records import Content, read_record

Inputs = dict[str, NDArray[np.float32]]
"""By atlas, float32 (n, d)."""

COLUMNS_FILE = "columns.json"
TRAINED_ON_FILE = "trained_on.json"


class CohortFeatures(Mapping[str, NDArray[np.float32]]):
    """The raw features of a cohort, a vector per id laid out as `columns` says; rows are read when asked for.

    Args:
        cohort: The subjects and their store.
        config: Which atlases and measure; which covariates the features need.
        columns: The layout that a predictor was fitted on. A covariate that the features do not need is then 0 where
            it is not known.
        sites: Names that the column of sites counts in; those of the cohort without it.

    Raises:
        ConfigError: An atlas that the cohort lacks.
        DataError: A covariate that the config needs is not known for every subject.
    """

    def __init__(
        self,
        cohort: Cohort,
        config: AbideConfig,
        columns: Columns | None = None,
        sites: Sequence[str] | None = None,
    ) -> None:
        self.cohort = cohort
        self._config = config
        measure = config.data.measure
        atlases = columns.atlases if columns else config.data.atlases or tuple(cohort.store.atlases)
        lacking = [name for name in atlases if name not in cohort.store.atlases]
        if lacking:
            raise ConfigError(
                f"data.atlases: {', '.join(lacking)} not in {cohort.path}, which holds "
                f"{', '.join(cohort.store.atlases)}. Prepare the cohort with them, or choose among these."
            )
        self._blocks = {name: cohort.store.block(name, measure) for name in atlases}
        known = _known_covariates(cohort, needed_covariates(config))
        blocks = tuple(FeatureBlock(name, measure, cohort.store.atlases[name].regions) for name in atlases)
        if sites is None:
            sites = sorted({case.site for case in cohort.cases if case.site})
        self.columns = columns or Columns(blocks, known, tuple(sites))
        if blocks != self.columns.blocks:
            raise DataError(
                f"{cohort.path} has {_described(blocks)}; the networks were trained on "
                f"{_described(self.columns.blocks)}. Prepare the subjects with the same atlases."
            )
        self._unknown = set(self.columns.covariates) - set(known)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the same files instead of receiving their numbers.
        return CohortFeatures, (self.cohort, self._config, self.columns)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        case, row = self.cohort.by_id[name], self.cohort.store.rows[name]
        covariates = [
            0.0 if covariate in self._unknown else _number(case, covariate, self.columns.sites)
            for covariate in self.columns.covariates
        ]
        return np.concatenate([*(block[row] for block in self._blocks.values()), np.array(covariates, np.float32)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.cohort.by_id)

    def __len__(self) -> int:
        return len(self.cohort.cases)

    def rows(self, names: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some subjects, (n, `columns.width`)."""
        return np.stack([self[name] for name in names])


class FoldFeatures:
    """The features of a fold: a pipeline per atlas whose learning steps saw the training part alone.

    Attributes:
        columns: The layout of the raw features that the pipelines were fitted on.
        pipelines: Fitted, by atlas.
    """

    def __init__(self, columns: Columns, pipelines: Mapping[str, Pipeline]) -> None:
        self.columns = columns
        self.pipelines = pipelines

    @classmethod
    def fit(cls, config: AbideConfig, features: CohortFeatures, names: Sequence[str]) -> tuple[Self, Inputs]:
        """Fit every atlas's pipeline on some subjects, and return with it what the networks are given of these."""
        with single_thread():
            rows = _wide(features.rows(names))
            atlases = features.columns.atlases
            pipelines = {atlas: atlas_pipeline(config, features.columns, atlas) for atlas in atlases}
            inputs = {
                atlas: np.asarray(pipeline.fit_transform(rows), np.float32) for atlas, pipeline in pipelines.items()
            }
        return cls(features.columns, pipelines), inputs

    def transform(self, features: CohortFeatures, names: Sequence[str]) -> Inputs:
        """What the networks are given of some subjects, by atlas; their raw features must have the same layout."""
        with single_thread():
            return self.apply(features.rows(names))

    def apply(self, rows: NDArray[np.float32]) -> Inputs:
        """The same of raw features (n, `columns.width`)."""
        with single_thread():
            wide = _wide(rows)
            return {
                atlas: np.asarray(pipeline.transform(wide), np.float32) for atlas, pipeline in self.pipelines.items()
            }

    def with_sites(self, names: Sequence[str]) -> Self:
        """The same features with other names of the sites, in their order."""
        columns = replace(self.columns, sites=tuple(names))
        for pipeline in self.pipelines.values():
            for _, step in pipeline.steps:
                step.set_params(columns=columns)
        return type(self)(columns, self.pipelines)

    def save(self, folder: Path) -> None:
        """Write the layout and what the pipelines learned, as plain data."""
        write_json(folder / COLUMNS_FILE, asdict(self.columns))
        for atlas, pipeline in self.pipelines.items():
            save_fitted(pipeline, folder / "features" / f"{atlas}.safetensors")

    @classmethod
    def load(cls, config: AbideConfig, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: A file is missing or damaged, or does not fit the config.
        """
        columns = read_columns(folder)
        pipelines = {
            atlas: load_fitted(atlas_pipeline(config, columns, atlas), folder / "features" / f"{atlas}.safetensors")
            for atlas in columns.atlases
        }
        return cls(columns, pipelines)


def _wide(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """What every step of a pipeline would make of the rows by itself, once for all of them."""
    return np.asarray(rows, np.float64)


def read_columns(folder: Path) -> Columns:
    """Read the layout of the raw features that a fold was fitted on.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    path = folder / COLUMNS_FILE
    advice = "Expected the layout of the features that the fold learned from. Train again."
    return read_record(path, Columns, advice, error=CheckpointError)


class _TrainedOn(Content):
    """What new subjects are compared with: the regions and what is stored, by atlas, and the names of the classes."""

    numbers: dict[str, tuple[str, ...] | None] = Field(default_factory=dict)
    contents: dict[str, str] = Field(default_factory=dict)
    label_names: dict[int, str] = Field(default_factory=lambda: {1: "positive", 0: "negative"})


def write_trained_on(cohort: Cohort, atlases: Sequence[str], folder: Path) -> None:
    """Note the regions of the cohort, what is stored of them, and what it calls its classes."""
    stored = {atlas: cohort.store.atlases[atlas] for atlas in atlases}
    content = {
        "numbers": {atlas: one.numbers for atlas, one in stored.items()},
        "contents": {atlas: one.content for atlas, one in stored.items()},
        "label_names": cohort.label_names,
    }
    write_json(folder / TRAINED_ON_FILE, content)


def read_trained_on(folder: Path) -> tuple[dict[str, Layout], dict[int, str]]:
    """Read the regions that new subjects must have, by atlas, and what class 1 and class 0 are called.

    Raises:
        CheckpointError: The layout of the features is missing or damaged, or the file is damaged.
    """
    noted = _read_trained_on(folder)
    regions = read_columns(folder).regions
    return {atlas: Layout(count, noted.numbers.get(atlas)) for atlas, count in regions.items()}, noted.label_names


def _read_trained_on(folder: Path) -> _TrainedOn:
    path = folder / TRAINED_ON_FILE
    if not path.is_file():
        return _TrainedOn()
    return read_record(path, _TrainedOn, "Remove it, and regions are not compared.", error=CheckpointError)


def read_contents(folder: Path) -> Mapping[str, str]:
    """Whether time series or correlations were stored of each atlas in training; empty where a run did not note it.

    Raises:
        CheckpointError: The file is damaged.
    """
    return _read_trained_on(folder).contents


def require_contents(cohort: Cohort, columns: Columns, trained: Mapping[str, str]) -> None:
    """Refuse connections that are computed in another way than those that a model was trained on.

    Raises:
        DataError: The measure shrinks the covariance, by the length of a series or by a fixed share, and the cohort
            stores series where the model learned from correlations, or the other way round.
    """
    words = {"series": "time series", "correlation": "correlations"}
    for block in columns.blocks:
        stored, before = cohort.store.atlases[block.atlas].content, trained.get(block.atlas)
        if before and stored != before and MEASURES[block.measure].part.shrunk:
            raise DataError(
                f"{cohort.path} holds {words[stored]} of {block.atlas}, and the model learned {block.measure} from "
                f"{words[before]}: the two are shrunk in other ways, and their numbers cannot be compared. Give the "
                f"{words[before]} of these subjects."
            )


def copy_trained_on(folder: Path, out: Path) -> None:
    """Copy what `read_trained_on` reads; nothing where a run of an earlier version did not note it."""
    if (folder / TRAINED_ON_FILE).is_file():
        write_json(out / TRAINED_ON_FILE, _read_trained_on(folder).declared)


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


def needed_covariates(config: AbideConfig) -> set[str]:
    """Covariates that the features cannot do without."""
    wanted = config.features
    combat = {"site", *wanted.preserve} if wanted.harmonize == "combat" else set()
    return {*wanted.confounds, *combat}


def _known_covariates(cohort: Cohort, needed: set[str]) -> tuple[str, ...]:
    """Those that every subject has; the rest are left out, unless they are needed."""
    found = []
    for name in COVARIATES:
        missing = [case.id for case in cohort.cases if not _text(case, name)]
        if not missing:
            found.append(name)
        elif name in needed:
            raise DataError(
                f"{len(missing)} subject(s) have no {name} ({some(missing)}), which features.confounds or "
                f"features.harmonize needs. Fill the column '{name}' of {cohort.path}, or leave {name} out of them."
            )
    return tuple(found)


def _text(case: Case, name: str) -> str:
    return known(case.site if name == "site" else case.covariates.get(name, ""))


def _number(case: Case, name: str, sites: Sequence[str]) -> float:
    if name == "site":
        # A site beyond the names is one that was never seen.
        return float(sites.index(case.site)) if case.site in sites else float(len(sites))
    return case.covariate(name)


def _described(blocks: Sequence[FeatureBlock]) -> str:
    return ", ".join(f"{block.atlas} ({block.regions} regions, {block.measure})" for block in blocks)
