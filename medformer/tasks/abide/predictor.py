"""What a fold on connectomes leaves: its features, and the networks that score subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.config import AbideConfig
from medformer.connectome.atlases import require_regions
from medformer.connectome.columns import Columns
from medformer.crossval.run.classes import Scorer
from medformer.crossval.run.contract import Study
from medformer.crossval.vectors import DescribedCases
from medformer.data.connectomes.cohort import Cohort
from medformer.inference.classification import predict_scores
from medformer.models.connectome.build import active_defects, build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.seeds import derive_seed
from medformer.tasks.abide.features import CohortFeatures, FoldFeatures, Inputs, read_contents, require_contents
from medformer.training.devices import choose_device
from medformer.training.saving import load_model

Subjects = Study[AbideConfig, Cohort]
"""What is learned from: a cohort, and its config."""


@dataclass(frozen=True)
class ConnectomeScorer:
    """The features and networks of a fold (a `Scorer`).

    Attributes:
        config: Of the run.
        features: What the fold's features learned.
        models: The networks of the fold, whose probabilities are averaged.
        seed: Of the fold; only the defect `noise_at_test` draws from it.
        device: Where to compute; where the config says without one.
        contents: What was stored of each atlas in training; see `require_contents`.
    """

    config: AbideConfig
    features: FoldFeatures
    models: Sequence[ConnectomeClassifier]
    seed: int = 0
    device: torch.device | None = None
    contents: Mapping[str, str] = field(default_factory=dict)

    def outputs(self, study: Subjects, names: Sequence[str]) -> NDArray[np.float64]:
        """The networks' mean probability of autism, (n,)."""
        require_contents(study.data, self.features.columns, self.contents)
        return self.scores(CohortFeatures(study.data, study.config, self.features.columns).rows(names), names)

    def scores(self, rows: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
        """The same of raw features (n, width); names are for messages."""
        return predict_scores(
            self.models,
            seen(self.config, self.features.apply(rows), self.seed),
            ids=names,
            batch_size=self.config.inference.batch_size,
            device=self.device or choose_device(self.config.training.accelerator),
        )


@dataclass(frozen=True)
class BaselineScorer:
    """A fitted baseline and the layout of its features (a `Scorer`).

    Attributes:
        scorer: Of vectors of that layout.
        columns: The layout.
        contents: What was stored of each atlas in training; see `require_contents`.
    """

    scorer: Scorer
    columns: Columns
    contents: Mapping[str, str]

    @classmethod
    def made(cls, scorer: Scorer, study: Any, folder: Path) -> Self:
        """For the study of a run, and the folder of its fold."""
        return cls(scorer, study.features.columns, read_contents(folder))

    def outputs(self, study: Subjects, names: Sequence[str]) -> NDArray[np.float64]:
        """Scores before calibration, (n,)."""
        require_contents(study.data, self.columns, self.contents)
        vectors = CohortFeatures(study.data, study.config, self.columns)
        return self.scorer.outputs(DescribedCases(study.by_id, vectors), names)


def member_folder(folder: Path, number: int) -> Path:
    """Where a network of a fold is: the first in the fold's own folder, the others below it."""
    return folder if number == 0 else folder / "members" / str(number)


def new_network(config: AbideConfig, columns: Columns, seed: int) -> ConnectomeClassifier:
    """Build the network of a config for features of a layout, with first weights that a seed decides.

    Raises:
        DataError: A known atlas has another number of regions.
        ConfigError: The config names no network that can be built.
    """
    for atlas, number in columns.regions.items():
        require_regions(atlas, number)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_connectome_model(config.model, columns.regions, diagonal=columns.diagonal)


def load_scorer(config: AbideConfig, folder: Path, device: torch.device | None = None) -> ConnectomeScorer:
    """Load what a fold that is done left in its folder, to compute on a device or where the config says.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the config.
    """
    features = FoldFeatures.load(config, folder)
    models = []
    for number in range(config.members):
        model = new_network(config, features.columns, 0)
        load_model(member_folder(folder, number) / "model.safetensors", model)
        models.append(model.eval())
    return ConnectomeScorer(config, features, models, device=device, contents=read_contents(folder))


def seen(config: AbideConfig, inputs: Inputs, seed: int) -> Inputs:
    """What a network is given to judge: the features, with noise where that defect is asked for."""
    if "noise_at_test" not in active_defects(config.model):
        return inputs
    rng = np.random.default_rng(derive_seed(seed, "noise at test"))
    return {
        atlas: block + rng.normal(0.0, config.noise, block.shape).astype(np.float32) for atlas, block in inputs.items()
    }
