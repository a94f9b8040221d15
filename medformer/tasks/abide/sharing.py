"""What a fold learned from connectomes, as it may be passed on: nothing in it shows a single subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medformer.config import AbideConfig
from medformer.crossval.plan import PlanCase
from medformer.errors import DataError
from medformer.inference.classification import THRESHOLD
from medformer.inference.threshold import copy_threshold
from medformer.names import stand_ins
from medformer.tasks.abide.features import (
    FoldFeatures,
    copy_trained_on,
    needed_covariates,
    read_columns,
    read_trained_on,
)
from medformer.tasks.abide.predictor import member_folder
from medformer.training.saving import copy_weights

FEWEST = 5
"""Training subjects of a site that is corrected by name. The correction of a site with one subject holds the connectome
of this subject, by which a person can be recognized."""


def share_fold(config: AbideConfig, folder: Path, out: Path, train: Sequence[PlanCase]) -> None:
    """Copy networks, features, calibration and threshold of a fold, without names of subjects.

    Names of sites stay only where the features are corrected by them; elsewhere letters stand for them, which changes
    no score.

    Args:
        config: Of the run.
        folder: Of the fold.
        out: Folder to write into.
        train: The fold's training subjects.

    Raises:
        DataError: A correction rests on so few subjects that it shows them.
        CheckpointError: A file is missing, damaged, or does not fit the config.
    """
    features = FoldFeatures.load(config, folder)
    if corrects_sites(config):
        _require_enough(train)
    else:
        features = features.with_sites(stand_ins("site", len(features.columns.sites)))
    features.save(out)
    copy_trained_on(folder, out)
    copy_threshold(folder / THRESHOLD, out / THRESHOLD)
    for number in range(config.members):
        copy_weights(member_folder(folder, number), member_folder(out, number))


def describe_folds(config: AbideConfig, folder: Path) -> dict[str, Any]:
    """Say what subjects must have, and what the classes are called, as plain data."""
    layouts, names = read_trained_on(folder)
    columns = read_columns(folder)
    return {
        "labels": {str(value): name for value, name in names.items()},
        "input": {
            "connectivity": config.data.measure,
            "regions": {atlas: layout.regions for atlas, layout in layouts.items()},
            "covariates": sorted(needed_covariates(config)),
            **({"sites": list(columns.sites)} if corrects_sites(config) else {}),
            "features": config.features.model_dump(mode="json"),
        },
        "output": {"score": f"of class 1 ({names.get(1, 'positive')}), from 0 to 1"},
    }


def corrects_sites(config: AbideConfig) -> bool:
    """Whether the features of a subject depend on the name of the site."""
    return "site" in needed_covariates(config)


def _require_enough(train: Sequence[PlanCase]) -> None:
    few = {site: count for site, count in sorted(Counter(case.site for case in train).items()) if count < FEWEST}
    if few:
        listed = ", ".join(f"{site or 'unknown'} ({count})" for site, count in few.items())
        raise DataError(
            f"The features are corrected by site, and of {len(few)} site(s) fewer than {FEWEST} subjects were trained "
            f"on: {listed}. Such a correction shows the connectomes of these subjects, so it is not exported. Train "
            "with small sites merged or left out, or without features.harmonize=combat and the confound 'site'."
        )
