"""How long training on volumes takes, from a few timed steps of the network that is planned for them."""

from __future__ import annotations

import numpy as np

from medformer.crossval.plan import Fold
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.plan.planning import shapes_at
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.inference.volumes.segmenter import ValidationVolumeDice
from medformer.inference.volumes.windows import count_windows
from medformer.models.timing import time_images
from medformer.tasks.volume.network import Planner, new_network
from medformer.training.devices import choose_device
from medformer.training.pace import Pace, pretraining_steps, steps_of


def volume_pace(planner: Planner, plan: VolumePlan, fold: Fold, *, unlabeled: int = 0) -> Pace:
    """What training on a fold takes with a plan.

    Args:
        planner: Knows config and cases.
        plan: Of the fold.
        fold: Its parts.
        unlabeled: Further cases that pretraining sees.
    """
    config, training = planner.config, planner.config.training
    timing = time_images(
        new_network(config, plan, 0),
        plan.patch,
        plan.batch_size,
        in_channels=len(plan.intensity),
        device=choose_device(training.accelerator).type,
        precision=training.precision,
    )
    segments = config.target == "segmentation"
    patches = config.data.patches if segments else 1

    def windows(names: tuple[str, ...], overlap: float, most: float = np.inf) -> float:
        if not segments or not names:
            return len(names)
        facts = [case_facts(planner.records[name], planner.info, config.plan.orientation) for name in names]
        return sum(min(most, count_windows(shape, plan.patch, overlap)) for shape in shapes_at(facts, plan.spacing))

    inference = config.inference
    tested = (*fold.test, *(fold.validation if not segments or inference.components == "fit" else ()))
    views = 8 if segments and inference.flips else 1
    return Pace(
        steps=steps_of(len(fold.train) * patches, plan.batch_size, training.devices),
        step=timing.step,
        validation=windows(fold.validation, 0.0, ValidationVolumeDice.windows) * timing.case,
        after=views * windows(tested, inference.overlap) * timing.case,
        pretraining=pretraining_steps(
            config.pretraining,
            (len(fold.train) + unlabeled) * config.data.patches,
            plan.batch_size,
            training.devices,
        ),
        batch_size=plan.batch_size,
        size=plan.patch,
    )
