"""`medformer abide explain`: what the networks of a finished run rest their scores on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medformer.config import AbideConfig
from medformer.config_loading import load_config
from medformer.crossval.plan import read_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.data.connectomes.cohort import read_cohort
from medformer.errors import ConfigError, DataError
from medformer.files import read_json
from medformer.inference.attribution.checks import randomization_check
from medformer.inference.attribution.fold import explain_fold
from medformer.inference.attribution.tables import AtlasLabels, write_attributions
from medformer.seeds import derive_seed
from medformer.training.devices import choose_device
from pipelines.abide_features import CohortFeatures, fold_inputs
from pipelines.abide_fold import read_networks
from pipelines.console import make_reporter, say
from pipelines.run import report_on

_CHECKED = 40  # subjects whose maps the randomization check compares


def explain(*, run: Path, steps: int) -> None:
    """Attribute every fold's test scores, pool the folds, check the result, and add it to the report.

    Raises:
        ConfigError: Not a run of this task.
        DataError: The cohort is not the one of the run, or not there.
        CheckpointError: Weights are missing.
    """
    opened = RunDirectory.open(run)
    record = read_json(opened.run_json)
    if record["task"] != "abide":
        raise ConfigError(f"{run} is a run of the task {record['task']}; explain works on runs of `medformer abide`.")
    config = load_config(opened.config_yaml, model=AbideConfig)
    cohort = read_cohort(record["manifest"])
    if cohort.digest() != record["data_sha256"]:
        raise DataError(f"{cohort.path} is not the cohort that {run} was made from. Restore it.")
    features = CohortFeatures(cohort, config)
    plan, reporter = read_plan(opened.splits_json), make_reporter()
    device = choose_device(config.training.accelerator)
    found, check = [], None
    tested = [fold for fold in plan.folds if fold.test]
    reporter.start("explaining folds", len(tested))
    for fold in tested:
        inputs = fold_inputs(config, features, fold)
        models = [model.to(device) for model in read_networks(config, features, opened.fold(fold.index))]
        reference = {atlas: block.mean(axis=0) for atlas, block in inputs.train.items()}
        labels = np.array([cohort.by_id[name].required_label() for name in fold.test], np.int64)
        found.append(
            explain_fold(models, inputs.test, labels, reference=reference, fold=fold.index, steps=steps, device=device)
        )
        if check is None:
            some = {atlas: block[:_CHECKED] for atlas, block in inputs.test.items()}
            seed = derive_seed(config.seed, "explain")
            check = randomization_check(models[0], some, reference=reference, seed=seed, device=device)
        reporter.advance()
    reporter.finish()
    known = {
        atlas: AtlasLabels(block.names, block.networks, block.coordinates, features.diagonal)
        for atlas, block in cohort.store.atlases.items()
        if atlas in features.columns.atlases
    }
    settings = {"model": config.model.name, "measure": config.data.measure, "steps": steps, "seed": config.seed}
    path = write_attributions(opened.path, found, known, randomization=check, settings=settings)
    say(f"Attributions of {sum(fold.subjects for fold in found)} test subjects: {path.parent}")
    report_on(opened)
