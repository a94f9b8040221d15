"""Planning for volumes: `medformer volume plan`, and the plan that each fold makes from its training cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from medformer.config import VolumeConfig
from medformer.data.volumes.inspect.facts import Fingerprint
from medformer.data.volumes.inspect.fingerprint import fingerprint
from medformer.data.volumes.plan.plan_text import describe_plan
from medformer.data.volumes.plan.planning import plan_volumes, target_spacing
from medformer.data.volumes.plan.volume_plan import Axes, Intensity, VolumePlan, read_plan, write_plan
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import ConfigError
from medformer.models.memory import TrainingCost
from medformer.models.step_time import seconds_per_step
from medformer.training.devices import choose_device
from pipelines.console import make_reporter, say
from pipelines.volume_data import notes, open_volumes
from pipelines.volume_network import new_network

PLAN = "plan.json"
"""Name of a plan in the folder of its fold or pretraining."""

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(g|gb|gib|m|mb|mib)?\s*", re.IGNORECASE)
_GB = {"": 1.0, "g": 1.0, "gb": 1.0, "gib": 1.073741824, "m": 1e-3, "mb": 1e-3, "mib": 1.048576e-3}


class Planner:
    """Makes plans from the facts of some of the cases.

    Args:
        config: The run's config.
        info: Labels and channels.
        facts: Of every case, each read once; a plan only looks at those of the ids it is given.
    """

    def __init__(self, config: VolumeConfig, info: DatasetInfo, facts: Fingerprint) -> None:
        self.config = config
        self.info = info
        self.facts = facts

    def plan(self, ids: Sequence[str]) -> VolumePlan:
        """Plan from these cases alone.

        Raises:
            ConfigError: Nothing fits in the memory that is given.
        """
        cases = self.facts.of(ids).cases
        spacing = self.config.plan.spacing or target_spacing(cases)
        return plan_volumes(
            cases,
            settings=self.config.plan,
            info=self.info,
            target=self.config.target,
            cost=TrainingCost(
                partial(self._network, spacing),
                len(self.info.channels),
                "cuda" if choose_device(self.config.training.accelerator).type == "cuda" else "cpu",
            ),
        )

    def settle(self, path: Path, ids: Sequence[str]) -> VolumePlan:
        """Read the plan that an earlier attempt left, or plan and write it down."""
        if path.is_file():
            return read_plan(path)
        plan = self.plan(ids)
        write_plan(path, plan)
        return plan

    def _network(
        self,
        spacing: tuple[float, float, float],
        patch: Axes,
        strides: tuple[Axes, ...],
        kernel_sizes: tuple[Axes, ...],
    ) -> nn.Module:
        """The config's network for a candidate."""
        candidate = VolumePlan(
            spacing=spacing,
            intensity=(Intensity(),) * len(self.info.channels),
            labels=self.info.labels if self.config.target == "segmentation" else (),
            patch=patch,
            strides=strides,
            kernel_sizes=kernel_sizes,
            batch_size=1,
        )
        return new_network(self.config, candidate, 0, pretrained=False)


def plan(*, config: VolumeConfig, out: Path | None) -> None:
    """Plan from all cases of a manifest or folder, and say what training will take."""
    reporter = make_reporter()
    volumes = open_volumes(config.data, Path(), reporter)
    facts = fingerprint(volumes.manifest.cases, volumes.info, orientation=config.plan.orientation, reporter=reporter)
    made = Planner(config, volumes.info, facts).plan([case.id for case in volumes.manifest.cases])
    patches = len(facts.cases) * (config.data.patches if config.target == "segmentation" else 1)
    step = seconds_per_step(
        new_network(config, made, 0),
        made.patch,
        made.batch_size,
        in_channels=len(made.intensity),
        device=choose_device(config.training.accelerator).type,
    )
    say(describe_plan(made, facts, seconds_per_epoch=step * max(1, patches // made.batch_size)))
    for note in notes(volumes.info):
        say(f"note: {note}")
    say("Cross-validation plans anew in each fold, from the fold's training cases alone.")
    if out is not None:
        write_plan(out, made)
        say(f"Plan: {out}")


def gigabytes(text: str) -> float:
    """Read a size such as `8GB`, `500MB` or `8`, which are gigabytes.

    Raises:
        ConfigError: It is none.
    """
    match = _SIZE.fullmatch(text)
    if match is None or not float(match[1]):
        raise ConfigError(f"--memory {text}: expected a size above 0, such as 8GB or 500MB.")
    return float(match[1]) * _GB[(match[2] or "").lower()]
