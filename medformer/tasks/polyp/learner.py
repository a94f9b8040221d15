"""Networks and baselines that segment images: train, learn the threshold, predict masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medformer.config import PolypConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.contract import Context, Row, Study
from medformer.data.cases import Case, path_from
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.store import FrameStore
from medformer.data.frames.transforms import Augmentation
from medformer.data.manifest import Manifest
from medformer.errors import DataError
from medformer.evaluation.masks.segmentation import binarize, case_row
from medformer.files import digest
from medformer.imaging.images import read_image
from medformer.imaging.mask_rule import read_mask
from medformer.inference.baselines.frames import BASELINES, MaskBaseline
from medformer.inference.export_table import Exports
from medformer.inference.frames.export import confidence, count_components, export_case
from medformer.inference.frames.recall import recall
from medformer.inference.frames.segment import Segmenter, ValidationDice
from medformer.inference.threshold import DiceThreshold, learn_threshold, read_threshold
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.models.networks.build import build_network
from medformer.models.networks.grid import Grid
from medformer.models.networks.pretrained import load_encoder
from medformer.models.timing import time_images
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.tasks.pretraining import first_encoder, pretrain_on_images
from medformer.tasks.start import record_start, take
from medformer.training.devices import choose_device
from medformer.training.fit import fit
from medformer.training.losses.objectives import SegmentationObjective
from medformer.training.losses.segmentation import build_loss
from medformer.training.pace import Pace, pretraining_steps, steps_of
from medformer.training.pretraining.pretrain import read_encoder
from medformer.training.saving import load_model
from medformer.training.worker_choice import cores

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


def with_threshold(study: Frames, mapper: Mapper, context: Context, name: str = "") -> FramePredictor:
    """Learn the threshold on the inner validation part of a fold, and leave it in the fold's folder."""
    wanted, cases = study.config.inference.threshold, [study.by_id[id_] for id_ in context.fold.validation]
    judge = FramePredictor(mapper, 0.5, study.config, name)
    threshold = learn_threshold(
        wanted,
        DiceThreshold(),
        (probability for _, _, probability in judge.maps(cases, "threshold", context.reporter)),
        (read_mask(case.required_mask(), case.foreground) for case in cases),
        # An image without a lesion says that a threshold is too low, and never that it is too high.
        count=lambda: {
            "with a lesion": sum(bool(read_mask(case.required_mask(), case.foreground).any()) for case in cases)
        },
        path=context.folder / THRESHOLD_FILE,
    )
    return FramePredictor(mapper, threshold, study.config, name)


@dataclass(frozen=True)
class FrameLearner:
    """Trains the network of a config (a `NetworkLearner`).

    Attributes:
        study: The cases.
        cache: Folder of decoded frames.
        hashes: SHA-256 of images by path, as far as they are known.
    """

    study: Frames
    cache: Path
    hashes: Mapping[Path, str]

    def fit(self, context: Context) -> FramePredictor:
        """Leave `model.safetensors`, `history.csv` and `threshold.json` in the fold's folder."""
        config, fold, seed = self.study.config, context.fold, context.seed()
        model = new_network(config, derive_seed(seed, "weights"))
        pretraining = partial(self._pretrain, context, derive_seed(seed, "pretraining"))
        encoder = first_encoder(config.pretraining, context.folder, self._read_encoder, pretraining)
        if encoder is not None:
            model.get_submodule("backbone").load_state_dict(encoder)
        if context.start is not None:
            record_start(context, take(context.start, model, config), config)
        dataset = partial(self._dataset, seed=seed, reporter=context.reporter)
        ahead = min(4, cores()) if config.data.workers == "auto" else config.data.workers
        fit(
            model,
            make_objective(config),
            dataset(self._cases(fold.train), augmentation=Augmentation(config.augment)),
            ValidationDice(dataset(self._cases(fold.validation)), config.training.batch_size, ahead),
            config.training,
            **context.options(self._metadata(context, "segmentation"), workers=config.data.workers),
        )
        segmenter = make_segmenter([model], config, choose_device(config.training.accelerator))
        return with_threshold(self.study, segmenter, context)

    def pretrain(self, context: Context) -> Mapping[str, Any]:
        """Train an encoder to reconstruct hidden blocks of the images of `context.fold`; masks are not read."""
        out = context.folder
        return self._pretrain(context, context.seed(), out, out / "pretraining.json")[1]

    def pace(self, fold: Fold) -> Pace:
        """See `NetworkLearner`."""
        config = self.study.config
        training, size, batch = config.training, config.data.image_size, config.training.batch_size
        device = choose_device(training.accelerator).type
        timing = time_images(
            new_network(config, 0), size, batch, in_channels=3, device=device, precision=training.precision
        )
        extra = self.study.extra
        pretrained = len(fold.train) + (0 if extra is None else len(extra.cases))
        judged = len(fold.validation) * timing.case
        return Pace(
            steps=steps_of(len(fold.train), batch, training.devices) * make_objective(config).visits,
            step=timing.step,
            validation=judged,
            after=(4 if config.inference.flips else 1) * (judged + len(fold.test) * timing.case),
            pretraining=pretraining_steps(config.pretraining, pretrained, batch, training.devices),
            batch_size=batch,
            size=size,
        )

    def _pretrain(
        self, context: Context, seed: int, out: Path, record: Path
    ) -> tuple[MaskedAutoencoder, Mapping[str, Any]]:
        config, extra = self.study.config, self.study.extra
        train = [*self._cases(context.fold.train), *(() if extra is None else extra.cases)]
        images = partial(self._dataset, seed=seed, masks=False, reporter=context.reporter)
        return pretrain_on_images(
            config,
            new_network(config, derive_seed(seed, "weights")),
            images(train, augmentation=Augmentation(config.augment)),
            images(self._cases(context.fold.validation)),
            config.training,
            context,
            unit="frames",
            seed=seed,
            out=out,
            record=record,
            metadata=self._metadata(context, "pretraining"),
        )

    def _read_encoder(self, folder: Path) -> Mapping[str, torch.Tensor]:
        return read_encoder(folder, masked_autoencoder(new_network(self.study.config, 0)))

    def _metadata(self, context: Context, purpose: str) -> dict[str, Any]:
        config, fold = self.study.config, context.fold
        return {
            "task": config.task,
            "purpose": purpose,
            "model": config.model.model_dump(mode="json"),
            "image_size": list(config.data.image_size),
            "loss": config.loss.name,
            "augment": config.augment.model_dump(mode="json"),
            "pretraining": config.pretraining.model_dump(mode="json"),
            "fold": fold.index,
            "cases_sha256": digest([fold.train, fold.validation]),
        }

    def _cases(self, names: Sequence[str]) -> list[Case]:
        return [self.study.by_id[name] for name in names]

    def _dataset(
        self,
        cases: Sequence[Case],
        *,
        seed: int,
        reporter: Reporter,
        augmentation: Augmentation | None = None,
        masks: bool = True,
    ) -> SegmentationDataset:
        data = self.study.config.data
        store = FrameStore(self.cache, data.image_size, limit_gb=data.cache, hashes=self.hashes)
        store.keep(cases, masks=masks, reporter=reporter)
        return SegmentationDataset(
            cases, data.image_size, augmentation=augmentation, seed=seed, store=store, masks=masks
        )


@dataclass(frozen=True)
class FrameBaselineLearner:
    """Fits a baseline of masks (a `Learner`).

    Attributes:
        study: The cases.
        name: Of the table of baselines.
    """

    study: Frames
    name: str

    def fit(self, context: Context) -> FramePredictor:
        """Leave `threshold.json` in the fold's folder; an interrupted fold simply starts again."""
        seed = context.seed("baseline", self.name)
        baseline = BASELINES[self.name].part(image_size=self.study.config.data.image_size, seed=seed)
        baseline.fit([self.study.by_id[name] for name in context.fold.train])
        return with_threshold(self.study, BaselineMapper(baseline), context, self.name)


@dataclass(frozen=True)
class BaselineMapper:
    """A baseline as a `Mapper`."""

    baseline: MaskBaseline
    batch_size: int = 1

    def predict(self, images: Sequence[Image], names: Sequence[str]) -> list[Map]:
        """See `Mapper`."""
        return [self.baseline.predict(image) for image in images]


def make_segmenter(models: Sequence[nn.Module], config: PolypConfig, device: torch.device | None = None) -> Segmenter:
    """Return the segmenter that a run's config asks for; without a device, it works where the first model is."""
    return Segmenter(
        models,
        image_size=config.data.image_size,
        flips=config.inference.flips,
        device=device,
        batch_size=config.inference.batch_size,
        precision=config.training.precision,
    )


def make_objective(config: PolypConfig) -> SegmentationObjective:
    """Return what the networks of a config are trained for.

    Raises:
        UnknownNameError: The loss is not known; the nearest name is given.
    """
    return SegmentationObjective(
        build_loss(config.loss.name), config.augment.scales, config.augment.scaling, config.loss.side_weight
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
    """Load the networks of finished folds as an ensemble; its threshold is the mean of theirs.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the config.
    """
    models: list[nn.Module] = []
    thresholds: list[float] = []
    for folder in folders:
        model = new_network(config, 0, pretrained=False)
        load_model(folder / "model.safetensors", model)
        models.append(model)
        thresholds.append(read_threshold(folder / THRESHOLD_FILE).threshold)
    segmenter = make_segmenter(models, config, device or choose_device(config.training.accelerator))
    return FramePredictor(segmenter, sum(thresholds) / len(thresholds), config)
