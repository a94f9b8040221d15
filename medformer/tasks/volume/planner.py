"""The plan that each fold makes from its training cases: what the network sees, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from medformer.config import VolumeConfig
from medformer.data.inventory import Inventory
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.plan.planning import plan_volumes, target_spacing
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan, read_volume_plan, write_volume_plan
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.imaging.geometry import Axes
from medformer.models.memory import TrainingCost
from medformer.tasks.volume.network import new_network
from medformer.training.devices import choose_device

PLAN = "plan.json"
"""Name of a plan in the folder of its fold or pretraining."""


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
        """Read the plan that an earlier attempt left, or plan and write it."""
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
        return new_network(self.config, candidate, 0, pretrained=False)
