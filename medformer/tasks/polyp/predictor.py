"""What a fold on frames leaves: probabilities of a lesion, and the threshold that makes masks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.config import PolypConfig
from medformer.crossval.run.contract import Row, Study
from medformer.data.cases import Case, path_from
from medformer.data.manifest import Manifest
from medformer.errors import DataError
from medformer.evaluation.masks.segmentation import binarize, case_row
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.inference.export_table import Exports
from medformer.inference.frames.export import confidence, count_components, export_case
from medformer.inference.frames.recall import recall
from medformer.inference.frames.segment import Segmenter
from medformer.inference.threshold import read_threshold
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pretrained import load_encoder
from medformer.progress import Reporter
from medformer.training.devices import choose_device
from medformer.training.saving import load_model

THRESHOLD_FILE = "threshold.json"

Image = NDArray[np.uint8]
Map = NDArray[np.float32]

Frames = Study[PolypConfig, Manifest]
"""What is learned from: images with masks, and their config."""


class Mapper(Protocol):
    """What maps images to probabilities of a lesion: networks, or a baseline."""

    @property
    def batch_size(self) -> int:
        """Images per call."""

    def predict(self, images: Sequence[Image], names: Sequence[str]) -> Sequence[Map]:
        """Map RGB images (H, W, 3) to probabilities, float32 (H, W) in [0, 1]; names are for messages."""


@dataclass(frozen=True)
class FramePredictor:
    """Probabilities of images and a threshold (a `Predictor`).

    Attributes:
        mapper: Gives the probabilities.
        threshold: A pixel is lesion where its probability is at least this.
        config: Of the run.
        name: What the progress is labelled with; empty for the run's own networks.
    """

    mapper: Mapper
    threshold: float
    config: PolypConfig
    name: str = ""

    def predict(self, study: Frames, names: Sequence[str], out: Exports, reporter: Reporter) -> Iterator[Row]:
        """Yield the scores of each test case; the run's own networks also leave masks and overlays."""
        for case, image, probability in self.maps([study.by_id[name] for name in names], "test cases", reporter):
            truth = read_mask(case.required_mask(), case.foreground)
            if self.name:
                mask = binarize(probability, self.threshold, case=case.id)
                found = {"components": count_components(mask), "confidence": confidence(probability, mask), "mask": ""}
            else:
                kind = self.config.inference.probabilities
                exported = export_case(
                    out, case.id, image, probability, self.threshold, probabilities=kind, truth=truth
                )
                found = {name: exported[name] for name in ("components", "confidence")}
                found["mask"] = exported["mask_file"]
            yield {
                "id": case.id,
                "site": case.site,
                **case_row(case.id, probability, truth, threshold=self.threshold),
                **found,
                "image": path_from(study.data.root, case.required_image()),
                "truth": path_from(study.data.root, case.required_mask()),
            }

    def recall(self, study: Frames, names: Sequence[str], stored: Mapping[int, str]) -> list[Row]:
        """See `Recalling`."""
        assert isinstance(self.mapper, Segmenter)
        return [
            {"id": name, **recall(self.mapper, read_image(study.by_id[name].required_image()), self.threshold, stored)}
            for name in names
        ]

    def maps(self, cases: Sequence[Case], label: str, reporter: Reporter) -> Iterator[tuple[Case, Image, Map]]:
        """Yield case, image and probabilities, decoding one batch at a time.

        Raises:
            DataError: An image cannot be read; the maps of those before it were yielded.
        """
        size = self.mapper.batch_size
        title = f"{self.name}, {label}" if self.name else label
        bar = reporter.track(cases, title)
        for part in (cases[first : first + size] for first in range(0, len(cases), size)):
            images: list[Image] = []
            unreadable: DataError | None = None
            for case in part:
                try:
                    images.append(read_image(case.required_image()))
                except DataError as error:
                    unreadable = error
                    break
            found = self.mapper.predict(images, [case.id for case in part[: len(images)]]) if images else []
            for image, probability in zip(images, found, strict=True):
                yield next(bar), image, probability
            if unreadable is not None:
                raise unreadable
        next(bar, None)


def make_segmenter(models: Sequence[nn.Module], config: PolypConfig, device: torch.device | None = None) -> Segmenter:
    """Return the segmenter that a run's config asks for; without a device, it works where the first model is."""
    return Segmenter(
        models,
        image_size=config.data.image_size,
        flips=config.inference.flips,
        device=device,
        batch_size=config.inference.batch_size,
        precision=config.inference.precision or config.training.precision,
    )


def new_network(config: PolypConfig, seed: int, *, pretrained: bool = True) -> nn.Module:
    """Build the network of a config with first weights that a seed decides.

    Args:
        config: Of the run.
        seed: Of the first weights.
        pretrained: Load the encoder weights that the config names, unless another network is to take their place.

    Raises:
        ConfigError: The config names no network that can be built, or weights for a network without our encoder.
        CheckpointError: `model.weights` cannot be read or does not fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_network(config.model, Grid(in_channels=3, out_channels=1, size=config.data.image_size))
    if pretrained and not config.training.init_from:
        load_encoder(model, config.model)
    return model


def load_predictor(config: PolypConfig, folders: Sequence[Path], device: torch.device | None = None) -> FramePredictor:
    """Load the networks of finished folds, at least one, as an ensemble; its threshold is the mean of theirs.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the config.
    """
    thresholds: list[float] = []
    # Copying a network is several times as fast as drawing weights for another.
    first = new_network(config, 0, pretrained=False)
    models = [first, *(deepcopy(first) for _ in folders[1:])]
    for folder, model in zip(folders, models, strict=True):
        load_model(folder / "model.safetensors", model)
        thresholds.append(read_threshold(folder / THRESHOLD_FILE).threshold)
    segmenter = make_segmenter(models, config, device or choose_device(config.training.accelerator))
    return FramePredictor(segmenter, sum(thresholds) / len(thresholds), config)
