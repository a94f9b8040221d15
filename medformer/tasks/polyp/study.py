"""Images and masks of polyps under one config: everything that a run asks about its cases (see `Study`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import sqrt
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from medformer.config import PolypConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.run.contract import Learner, Study
from medformer.crossval.run.forecast.hours import with_value
from medformer.crossval.run.start.source import Start
from medformer.crossval.vectors import Vectors
from medformer.data.cases import Case
from medformer.data.frames.describe import foreground_problems, inspect_frames
from medformer.data.frames.descriptors import FRAMES, frame_traits
from medformer.data.frames.transforms import resize_mask
from medformer.data.inventory import Inventory, Record
from medformer.data.manifest import Manifest, read_manifest
from medformer.data.near_duplicates import CaseComparison
from medformer.data.network_inputs import resize_batch
from medformer.data.problems import Problem
from medformer.data.training_range import Traits
from medformer.errors import ConfigError
from medformer.files import digest
from medformer.imaging.images import image_size
from medformer.imaging.mask_rule import read_mask
from medformer.imaging.masks import write_mask
from medformer.inference.baselines.frames import BASELINES
from medformer.models.autoencoder import masked_autoencoder
from medformer.names import file_stems
from medformer.progress import Reporter
from medformer.tasks.polyp.learner import (
    FrameBaselineLearner,
    FrameLearner,
    make_objective,
)
from medformer.tasks.polyp.predictor import new_network
from medformer.tasks.start import take
from medformer.training.pace import Pace
from medformer.training.parity import noise
from medformer.training.pretraining.masks import BlockMask

_SMALLEST, _STEP = 128, 32
"""Side of an image that is never made smaller, and what sides stay a multiple of, px."""


@dataclass(frozen=True, kw_only=True)
class PolypStudy(Study[PolypConfig, Manifest]):
    """The images of a manifest; see `Study`.

    Attributes:
        masks: Whether an image without a mask is a problem.
    """

    masks: bool = True

    @cached_property
    def extra(self) -> Self | None:
        """Unlabeled images that pretraining may see too."""
        path = self.config.pretraining.extra
        return replace(self, data=read_manifest(path, ungrouped="each"), masks=False) if path else None

    @property
    def quicker(self) -> str:
        return "--config polyp/cpu (minutes a fold, from ImageNet weights), --config polyp/quick (a first look), "

    def shrunk(self, factor: float, pace: Pace) -> Self | None:
        now = self.config.data.image_size
        rows, columns = (min(side, max(_SMALLEST, int(side / sqrt(factor)) // _STEP * _STEP)) for side in now)
        if (rows, columns) == now:
            return None
        return self.configured(with_value(self.config, "data.image_size", (rows, columns)))

    def check(self) -> None:
        super().check()
        make_objective(self.config)
        network = new_network(self.config, 0)
        _check_frozen(self.config)
        wanted, size = self.config.pretraining, self.config.data.image_size
        if wanted.enabled or wanted.weights:
            masked_autoencoder(network)
        if wanted.enabled:
            BlockMask(wanted.block, wanted.ratio).draw(torch.empty(1, 3, *size), torch.Generator())
        _check_forward_pass(self.config, network, 2, "Raise data.image_size, training.batch_size or augment.scales")

    def trial(self) -> tuple[Callable[[], nn.Module], torch.Tensor]:
        return partial(new_network, self.config, 0), noise(3, self.config.data.image_size)

    def check_start(self, start: Start) -> None:
        take(start, new_network(self.config, 0), self.config)

    def check_training(self, fold: Fold, learner: Any) -> None:
        if (cases := len(fold.train)) < 2 <= self.config.training.batch_size:
            advice = (
                "The smallest training part of the plan holds no more: add patients, or use another number of folds"
            )
            _check_forward_pass(self.config, new_network(self.config, 0), cases, advice)

    def inspect(self, cache: Path | None, reporter: Reporter) -> Inventory:
        size = self.config.data.image_size
        return inspect_frames(self.cases, image_size=size, require_masks=self.masks, cache=cache, reporter=reporter)

    def plan_case(self, case: Case, record: Record) -> PlanCase:
        """Plan by the foreground's share of the image and by what the manifest says; the hash covers both files."""
        return PlanCase(
            case.id,
            case.group,
            fingerprint=digest([record.hashes["file"], record.hashes["mask"]]),
            site=case.site,
            covariates={**case.described, "size": f"{record.facts['foreground']:.6f}"},
        )

    @property
    def comparison(self) -> CaseComparison:
        return FRAMES

    def problems(self, inventory: Inventory) -> list[Problem]:
        return [*super().problems(inventory), *foreground_problems(self.cases, inventory)]

    def traits(self, inventory: Inventory) -> Mapping[str, Traits]:
        return {
            name: frame_traits(record.array("thumbnail"), record.facts["height"], record.facts["width"])
            for name, record in inventory.items()
        }

    def learner(self, inventory: Inventory, cache: Path) -> FrameLearner:
        # Of the images alone: the canary has other masks than those that were looked at.
        found = ((case, inventory[case.id].hashes.get("file")) for case in self.cases)
        hashes = {case.required_image(): value for case, value in found if value}
        return FrameLearner(self, cache, hashes)

    def baselines(self, inventory: Inventory) -> Mapping[str, Callable[[], Learner]]:
        return {name: partial(FrameBaselineLearner, self, name) for name in BASELINES}

    def relabelled(self, giver: Mapping[str, str], folder: Path) -> Self:
        """Masks are stretched to the size of the image that they are given to; those already written stay."""
        cases, stems = [], file_stems(self.by_id)
        for case in self.cases:
            path = folder / "labels" / f"{stems[case.id]}.png"
            if not path.is_file():
                given = self.by_id[giver[case.id]]
                other = read_mask(given.required_mask(), given.foreground)
                write_mask(path, resize_mask(other, image_size(case.required_image())))
            cases.append(replace(case, mask=path, foreground=()))
        return replace(self, data=replace(self.data, cases=tuple(cases)))

    def probe_features(self, inventory: Inventory) -> tuple[Vectors, str]:
        return inventory.arrays("thumbnail"), "thumbnails of the images as the network sees them"


def _check_frozen(config: PolypConfig) -> None:
    """Refuse to keep levels of an encoder that starts from random weights.

    Raises:
        ConfigError: Nothing gives it other weights.
    """
    model, wanted = config.model, config.pretraining
    # Pretraining does not change them either.
    if model.frozen and not (model.weights or wanted.weights or config.training.init_from):
        raise ConfigError(
            f"model.frozen={model.frozen} keeps the finest levels of the encoder, and they would be random. Name "
            "their weights (model.weights; `medformer weights list`), or set model.frozen=0."
        )


def _check_forward_pass(config: PolypConfig, network: nn.Module, cases: int, advice: str) -> None:
    """Train one step in shapes alone: on the meta device nothing is computed.

    Args:
        config: Of the run.
        network: Its network, which is of no further use.
        cases: Of the batch, if the config allows as many.
        advice: What to do where it fails, besides choosing another model.

    Raises:
        ConfigError: The network cannot train on such a batch.
    """
    network.to("meta").train()
    cases, size = min(cases, config.training.batch_size), config.data.image_size
    with torch.device("meta"):
        batch = {"image": torch.empty(cases, 3, *size), "mask": torch.empty(cases, 1, *size)}
    smallest = resize_batch(batch, min(config.augment.scales), config.augment.scaling)["image"]
    try:
        network(smallest)
    except NotImplementedError:
        # An operation that only knows real tensors: the first step of the training will tell.
        return
    except (AssertionError, RuntimeError, ValueError) as error:
        rows, columns = smallest.shape[-2:]
        what = "one training image" if cases == 1 else f"{cases} training images"
        raise ConfigError(
            f"{config.model.name} cannot train on {what} of {rows} x {columns} px, height x width ({error}). "
            f"{advice}, or choose another model, such as meta_unet."
        ) from error
