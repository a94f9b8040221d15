"""Planning for volumes: `medformer volume plan`, and the plan that each fold makes from its training cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from medformer.config import VolumeConfig
from medformer.data.inventory import Inventory
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.plan.plan_text import describe_plan
from medformer.data.volumes.plan.planning import plan_volumes, target_spacing
from medformer.data.volumes.plan.volume_plan import Axes, Intensity, VolumePlan, read_volume_plan, write_volume_plan
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
        records: Of every case; a plan uses only those of the ids it is given.
    """

    def __init__(self, config: VolumeConfig, info: DatasetInfo, records: Inventory) -> None:
        self.config = config
        self.info = info
        self.records = records

    def plan(self, ids: Sequence[str]) -> VolumePlan:
        """Plan from these cases alone.

        Raises:
            ConfigError: Nothing fits in the memory that is given.
        """
        cases = [case_facts(self.records[name], self.info, self.config.plan.orientation) for name in ids]
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

    def plan_once(self, path: Path, ids: Sequence[str]) -> VolumePlan:
        """Read the plan that an earlier attempt left, or plan and write it down."""
        if path.is_file():
            return read_volume_plan(path)
        plan = self.plan(ids)
        write_volume_plan(path, plan)
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
        without = self.config.model.model_copy(update={"weights": None})
        return new_network(self.config.model_copy(update={"model": without}), candidate, 0)


def plan(*, config: VolumeConfig, out: Path | None) -> None:
    """Plan from all cases of a manifest or folder, and say what training will take."""
    reporter = make_reporter()
    volumes = open_volumes(config.data, Path(), reporter)
    records = inspect_volumes(volumes.manifest.cases, masks=bool(volumes.info.labels), reporter=reporter)
    facts = [case_facts(record, volumes.info, config.plan.orientation) for record in records.values()]
    made = Planner(config, volumes.info, records).plan(list(records))
    patches = len(facts) * (config.data.patches if config.target == "segmentation" else 1)
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
        write_volume_plan(out, made)
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
