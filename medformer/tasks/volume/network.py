"""The plan that each fold makes from its training cases, and the networks of a run, from its config and this plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from medformer.config import VolumeConfig
from medformer.config.shared import TrainingConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.start.source import Start
from medformer.data.inventory import Inventory
from medformer.data.volumes.inspect.facts import case_facts
from medformer.data.volumes.plan.patch_size import fitted
from medformer.data.volumes.plan.planning import plan_volumes, target_spacing
from medformer.data.volumes.plan.volume_plan import Intensity, VolumePlan, read_volume_plan, write_volume_plan
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.files import digest
from medformer.imaging.geometry import Axes, times
from medformer.models.autoencoder import masked_autoencoder
from medformer.models.backbone.heads import Classifier
from medformer.models.memory import training_cost
from medformer.models.networks.build import NETWORKS, build_network
from medformer.models.networks.grid import Grid, kernel_note, padded_size
from medformer.models.networks.kernel import KernelPath
from medformer.models.networks.pretrained import load_encoder
from medformer.models.transfer import Parts, Transfer, varying_axes
from medformer.tasks.start import take
from medformer.training.devices import choose_device
from medformer.training.losses.segmentation import build_volume_loss
from medformer.training.processes.batch_norm import several_values
from medformer.training.saving import load_model

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
        self._plans: dict[tuple[str, ...], VolumePlan] = {}
        self._padded: dict[Axes, tuple[int, ...]] = {}

    def plan(self, ids: Sequence[str]) -> VolumePlan:
        """Plan from these cases alone, once for each set of them.

        Raises:
            ConfigError: Nothing fits in the memory that is given.
        """
        names = tuple(ids)
        if names not in self._plans:
            self._plans[names] = self._plan(names)
        return self._plans[names]

    def _plan(self, ids: Sequence[str]) -> VolumePlan:
        cases = [case_facts(self.records[name], self.info, self.config.plan.orientation) for name in ids]
        spacing = self.config.plan.spacing or target_spacing(cases)
        with several_values(self.config.plan.batch_size or 2):
            plan = plan_volumes(
                cases,
                settings=self.config.plan,
                info=self.info,
                target=self.config.target,
                cost=training_cost(
                    partial(self._network, spacing),
                    len(self.info.channels),
                    "cuda" if choose_device(self.config.training.accelerator).type == "cuda" else "cpu",
                    self.config.training.precision,
                ),
                savings=() if self.config.model.checkpointing else ("set model.checkpointing=true",),
            )
        if (inside := self._padded[plan.patch]) != plan.patch:
            note = (
                f"{self.config.model.name} pads a patch of {times(plan.patch)} to {times(inside)} voxels; "
                f"plan.patch={list(inside)} costs a step no more"
            )
            plan = replace(plan, notes=(*plan.notes, note))
        if "model.mixers" in NETWORKS[self.config.model.name].cannot:
            return plan
        note = kernel_note(self.config.model, plan_grid(plan, self.config))
        return replace(plan, notes=(*plan.notes, note)) if note else plan

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
            regions=self.info.regions if self.config.target == "segmentation" else (),
            patch=patch,
            strides=strides,
            kernel_sizes=kernel_sizes,
            batch_size=1,
        )
        network = new_network(self.config, candidate, 0, pretrained=False)
        self._padded[patch] = padded_size(network, patch)
        return network


def new_network(config: VolumeConfig, plan: VolumePlan, seed: int, *, pretrained: bool = True) -> nn.Module:
    """Build the network of a config with first weights that a seed decides, and with `model.weights` if pretrained.

    With `training.init_from` that file is not read: the other network takes its place (`take_volumes`).

    Raises:
        ConfigError: The config names no network that can be built, or weights for one without our encoder.
        CheckpointError: `model.weights` cannot be read or does not fit.
    """
    grid = plan_grid(plan, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(config.model, grid, target=config.target)
        if isinstance(network, Classifier) and config.model.wide:
            network.wide = KernelPath(len(plan.intensity), plan.spacing)
            # What the network adds starts at nothing.
            last = [layer for layer in network.head.modules() if isinstance(layer, nn.Linear)][-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
    if pretrained and not config.training.init_from:
        load_encoder(network, config.model)
    return network


def plan_grid(plan: VolumePlan, config: VolumeConfig) -> Grid:
    """What a plan says to the network that is built for it."""
    outputs = 2 if config.target == "classification" else plan.outputs
    return Grid(len(plan.intensity), outputs, plan.patch, plan.spacing, plan.strides, plan.kernel_sizes)


def read_network(config: VolumeConfig, plan: VolumePlan, folder: Path) -> nn.Module:
    """Read the network of a fold that is done.

    Raises:
        CheckpointError: Its weights are missing, damaged or of another network.
    """
    network = new_network(config, plan, 0, pretrained=False)
    load_model(folder / "model.safetensors", network)
    return network.eval()


def planned_training(config: VolumeConfig, plan: VolumePlan) -> TrainingConfig:
    """How training trains, with the batch that was planned."""
    return config.training.model_copy(update={"batch_size": plan.batch_size})


def metadata(config: VolumeConfig, plan: VolumePlan, fold: Fold, purpose: str) -> dict[str, object]:
    """What is kept beside the weights of a fold."""
    return {
        "task": config.task,
        "target": config.target,
        "purpose": purpose,
        "model": config.model.model_dump(mode="json"),
        "plan": plan.to_json(),
        "augment": config.augment.model_dump(mode="json"),
        "pretraining": config.pretraining.model_dump(mode="json"),
        "fold": fold.index,
        "cases_sha256": digest([fold.train, fold.validation]),
    }


def small_plan(config: VolumeConfig) -> VolumePlan:
    """A plan for a small network of a config, before any volume is read."""
    spacing = config.plan.spacing or (1.0, 1.0, 1.0)
    patch, layout = fitted(config.plan.patch or (32, 32, 32), spacing)
    return VolumePlan(spacing, (Intensity(),), ((1, "any"),), patch, *layout, batch_size=1)


def take_volumes(start: Start, network: nn.Module, config: VolumeConfig, plan: VolumePlan) -> Transfer:
    """Fill a network with what fits of another run's, whose labels, channels and plan may be others.

    A row of the head is taken for the label of the same name; see `transfer` for channels and kernels.

    Raises:
        ConfigError: Hardly anything fits.
        DataError: The plan of the other network is damaged.
    """
    there = read_volume_plan(start.folder / PLAN)
    parts: dict[str, Parts] = {}
    stems: Collection[str] = ()
    own, other = (_outputs(one) for one in (plan, there))
    if config.target == "segmentation" and there.labels and other != own:
        more = (
            replace(plan, regions=(*plan.regions, plan.regions[0]))
            if plan.regions
            else replace(plan, labels=(*plan.labels, (1 + max(value for value, _ in plan.labels), "")))
        )
        heads = varying_axes(network, new_network(config, more, 0, pretrained=False))
        parts = {name: Parts(axis, own, other) for name, axis in heads.items()}
    if len(there.intensity) != len(plan.intensity):
        more = replace(plan, intensity=(*plan.intensity, plan.intensity[0]))
        stems = varying_axes(network, new_network(config, more, 0, pretrained=False))
    return take(start, network, config, stems=stems, parts=parts)


def _outputs(plan: VolumePlan) -> tuple[str, ...]:
    """What each map that a network gives is about."""
    names = tuple(name for _, name in plan.found)
    return names if plan.regions else ("background", *names)


def plan_differences(start: Start, plan: VolumePlan) -> list[str]:
    """How another network's plan differs in what decides how its tensors are understood."""
    there = read_volume_plan(start.folder / PLAN)
    named = ("spacing", "patch", "strides", "kernel_sizes", "orientation", "labels", "regions")
    pairs = [(f"plan.{name}", getattr(there, name), getattr(plan, name)) for name in named]
    pairs.append(("channels", len(there.intensity), len(plan.intensity)))
    pairs.append(("intensity", [one.scheme for one in there.intensity], [one.scheme for one in plan.intensity]))
    return [f"{key} {other} there, {own} here" for key, other, own in pairs if other != own]


def check_network(config: VolumeConfig) -> None:
    """Build a small network of a config, so that a wrong name or file ends the run before volumes are read.

    Raises:
        ConfigError: An unknown name, or settings that do not go together.
        CheckpointError: `model.weights` cannot be read or does not fit.
    """
    build_volume_loss(config.loss.name)
    network = new_network(config, small_plan(config), 0)
    if config.pretraining.enabled or config.pretraining.weights:
        masked_autoencoder(network)
