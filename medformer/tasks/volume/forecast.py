"""What training on volumes will take: a plan from all of them, its memory, the time of an epoch and of all folds."""

from __future__ import annotations

from pathlib import Path

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.begin.given_parts import draw, held_out_note
from medformer.crossval.run.forecast.hours import fit_time
from medformer.crossval.run.start.weights import decide_weights
from medformer.data.problems import require_usable
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.plan.volume_plan import VolumePlan, describe_plan
from medformer.errors import ConfigError, DataError
from medformer.progress import Reporter
from medformer.tasks.new_cases import Say
from medformer.tasks.volume.pace import volume_pace
from medformer.tasks.volume.task import VolumeTask


def forecast(config: VolumeConfig, *, say: Say, reporter: Reporter) -> VolumePlan:
    """Plan from all cases of a manifest or folder, measure a step of training, and say what a run will take.

    Args:
        config: Names the cases.
        say: Receives what was planned, and what to know of the cases.
        reporter: Receives the progress.

    Raises:
        ConfigError: The config names no data, or nothing fits in the memory that is given.
        DataError: Cases cannot be used.
    """
    decided, _ = decide_weights(config, Path(), resume=False)
    assert isinstance(decided, VolumeConfig)
    study = VolumeTask().open(decided, reporter)
    for note in held_out_note(study):
        say(f"note: {note}")
    study = study.without(study.held_out)
    inventory = study.inspect(None, reporter)
    require_usable(study.problems(inventory))
    study, fitted = fit_time(study, inventory, Path())
    config = study.config
    planner, names = study.planner(inventory), tuple(study.by_id)
    plan = planner.plan(names)
    pace = volume_pace(planner, plan, Fold(0, names, (), ()))
    facts = [case_facts(record, study.data.info, config.plan.orientation) for record in inventory.values()]
    whole_run, why = None, ""
    try:
        folds = draw(study, [study.plan_case(case, inventory[case.id]) for case in study.cases]).folds
        epochs, minutes = config.training.epochs, config.training.minutes
        each = [60 * minutes if minutes else epochs * pace.epoch * len(fold.train) / len(names) for fold in folds]
        length = f"{minutes:g} minutes" if minutes else f"{epochs} epochs"
        whole_run = sum(each), f"{len(folds)} fold(s) of {length}, one after another, without validation and tests"
    except (DataError, ConfigError) as error:
        why = f"note: no folds can be drawn as the config asks: {error}"
    for line in fitted:
        say(f"note: {line}")
    say(describe_plan(plan, facts, seconds_per_epoch=pace.epoch, whole_run=whole_run))
    if why:
        say(why)
    for note in study.notes:
        say(f"note: {note}")
    say("Cross-validation plans anew in each fold, from the fold's training cases alone.")
    return plan
