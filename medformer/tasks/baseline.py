"""A linear baseline of a run as what predicts: fitted again on each fold's training part, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any, cast

from medformer.crossval.plan import read_plan, some
from medformer.crossval.run.classes import ClassPredictor, Scorer
from medformer.crossval.run.collect import planned_folds
from medformer.crossval.run.contract import Context
from medformer.crossval.run.forecast.hours import with_value
from medformer.data.cases import Case
from medformer.data.inventory import Record
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.inference.classification import read_decision
from medformer.progress import Reporter
from medformer.tasks import get_task
from medformer.tasks.new_cases import Request
from medformer.tasks.trained import Trained, open_run

_WITHOUT_DATA = "covariates"
"""The baseline that sees site, age, sex and motion alone."""


def load_classifier(request: Request, model: str, scorer_of: Callable[[Scorer, Any, Path], Scorer]) -> ClassPredictor:
    """Load the networks of a request, or a baseline in their place if it is named; see `load_baseline`."""
    if model:
        return load_baseline(request.trained, model, request.reporter, scorer_of)
    return cast(ClassPredictor, request.load())


def load_baseline(
    trained: Trained, name: str, reporter: Reporter, scorer_of: Callable[[Scorer, Any, Path], Scorer]
) -> ClassPredictor:
    """Fit a baseline of a run again in each of its folds, with the calibration and threshold that the run learned.

    A fitted baseline holds what its training cases look like, so a run does not keep it. The cases of the run have to
    be there, and are compared with those that it was made from.

    Args:
        trained: The run; it classifies.
        name: Of the baseline.
        reporter: Receives one step per fold.
        scorer_of: From what was fitted, the run's cases and the folder of a fold to what scores new cases.

    Raises:
        ConfigError: A bundle, no baseline of that name has finished, or one that does not look at cases.
        DataError: The cases are not those of the run, or not there.
    """
    if trained.known_cases is None:
        raise ConfigError(
            f"--model {name}: {trained.path} is a bundle, which holds networks alone. Give the run itself."
        )
    run, config = open_run(trained.path, trained.task)
    if name == _WITHOUT_DATA:
        raise ConfigError(
            f"--model {name}: it knows site, age, sex and motion alone, which new cases need not have. Take another "
            "baseline, or the network."
        )
    if name not in run.baselines:
        raise UnknownNameError("finished baseline of this run", name, [*run.baselines])
    own, manifest = run.baseline(name), run.record()["manifest"]
    study = get_task(trained.task).open(with_value(config, "data.manifest", str(manifest)), reporter)
    with TemporaryDirectory() as folder:
        # A copy, since predicting leaves a run as it is.
        known = Path(folder) / "inventory"
        if run.inventory.is_dir():
            copytree(run.inventory, known)
        inventory = study.inspect(known, reporter)
    there = {case.id: _fingerprint(study, case, inventory[case.id]) for case in study.cases}
    changed = [case.id for case in read_plan(run.splits_json).cases if there.get(case.id) != case.fingerprint]
    if changed:
        raise DataError(
            f"--model {name} is fitted again on the cases of {run.path}, and in {manifest} {some(changed)} "
            f"{'is' if len(changed) == 1 else 'are'} gone or not what the run was made from. Restore the data, "
            "or predict with the network."
        )
    learner, members, covariates = study.baselines(inventory)[name], [], False
    with TemporaryDirectory() as folder:
        for fold in reporter.track([one for one in planned_folds(run) if run.fold(one.index) in trained.folders], name):
            context = Context(fold, Path(folder), own, config.seed, False, reporter)
            fitted = cast(ClassPredictor, learner().fit(context))
            scorer = scorer_of(fitted.members[0][0], study, run.fold(fold.index))
            members.append((scorer, read_decision(own.fold(fold.index), log_odds=False)))
            covariates = fitted.covariates
    return ClassPredictor(members, covariates=covariates)


def _fingerprint(study: Any, case: Case, record: Record) -> str | None:
    """That of a plan; None where a file is gone or cannot be read, so that it has no hash."""
    try:
        found: str = study.plan_case(case, record).fingerprint
    except KeyError:
        return None
    return found
