"""What the scores of a run's networks rest on: attributions of every test subject, pooled over the folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medformer.crossval.run.collect import tested_folds
from medformer.data.connectomes.cohort import read_cohort
from medformer.errors import DataError
from medformer.inference.attribution.checks import randomization_check
from medformer.inference.attribution.integrated_gradients import explain_fold
from medformer.inference.attribution.tables import AtlasLabels, write_attributions
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.tasks.abide.predictor import load_scorer
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.trained import open_run
from medformer.training.banks import require_unremembered
from medformer.training.devices import choose_device

_CHECKED = 40  # subjects whose maps the randomization check compares


def explain_run(path: Path, *, steps: int, reporter: Reporter) -> tuple[Path, int]:
    """Attribute every fold's test scores to connections, pool the folds, and write tables into the run.

    Args:
        path: The run.
        steps: Points of the integral of each gradient.
        reporter: Receives one step per fold.

    Returns:
        The folder of the tables, and the number of subjects.

    Raises:
        ConfigError: Not a run of this task.
        DataError: The cohort is not the one of the run, or not there.
        CheckpointError: Weights are missing.
        LeakageError: The memory of a network holds a case that its fold tests.
    """
    run, config = open_run(path, "abide")
    record = run.record()
    cohort = read_cohort(record["manifest"])
    if cohort.digest() != record["data_sha256"]:
        raise DataError(f"{cohort.path} is not the cohort that {path} was made from. Restore it.")
    study = AbideStudy(config=config, data=cohort)
    device = choose_device(config.training.accelerator)
    found, check = [], None
    for fold in reporter.track(tested_folds(run), "explaining folds"):
        require_unremembered(run.fold(fold.index), fold.parts)
        scorer = load_scorer(config, run.fold(fold.index))
        models = [model.to(device) for model in scorer.models]
        train, test = (scorer.features.transform(study.features, part) for part in (fold.train, fold.test))
        reference = {atlas: block.mean(axis=0) for atlas, block in train.items()}
        labels = np.array([study.by_id[name].required_label() for name in fold.test], np.int64)
        found.append(
            explain_fold(models, test, labels, reference=reference, fold=fold.index, steps=steps, device=device)
        )
        if check is None:
            some = {atlas: block[:_CHECKED] for atlas, block in test.items()}
            seed = derive_seed(config.seed, "explain")
            check = randomization_check(models[0], some, reference=reference, seed=seed, device=device)
    known = {
        atlas: AtlasLabels(block.names, block.networks, block.coordinates, study.features.columns.diagonal)
        for atlas, block in cohort.store.atlases.items()
        if atlas in study.features.columns.atlases
    }
    settings = {"model": config.model.name, "measure": config.data.measure, "steps": steps, "seed": config.seed}
    table = write_attributions(run.path, found, known, randomization=check, settings=settings)
    return table.parent, sum(fold.subjects for fold in found)
