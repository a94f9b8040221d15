"""Networks and baselines that segment images: train, learn the threshold, predict masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medformer.config import PolypConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.contract import Context
from medformer.data.cases import Case
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.store import FrameStore
from medformer.data.frames.transforms import Augmentation
from medformer.files import digest
from medformer.imaging.mask_rule import read_mask
from medformer.inference.baselines.frames import BASELINES, MaskBaseline
from medformer.inference.frames.segment import ValidationDice
from medformer.inference.threshold import DiceThreshold, learn_threshold
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.models.timing import time_images
from medformer.seeds import derive_seed
from medformer.tasks.polyp.predictor import (
    THRESHOLD_FILE,
    FramePredictor,
    Frames,
    Image,
    Map,
    Mapper,
    make_segmenter,
    new_network,
)
from medformer.tasks.pretraining import first_encoder, pretrain_on_images
from medformer.tasks.start import record_start, take
from medformer.training.devices import choose_device
from medformer.training.fit import fit
from medformer.training.losses.objectives import SegmentationObjective
from medformer.training.losses.segmentation import build_loss
from medformer.training.pace import Pace, pretraining_steps, steps_of
from medformer.training.pretraining.pretrain import read_encoder
from medformer.training.worker_choice import cores


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
        train, validation = self._datasets(self._cases(fold.train), context, seed)
        ahead = min(4, cores()) if config.data.workers == "auto" else config.data.workers
        fit(
            model,
            make_objective(config),
            train,
            ValidationDice(validation, config.training.batch_size, ahead),
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
        cases = [*self._cases(context.fold.train), *(() if extra is None else extra.cases)]
        train, held_out = self._datasets(cases, context, seed, masks=False)
        return pretrain_on_images(
            config,
            new_network(config, derive_seed(seed, "weights")),
            train,
            held_out,
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

    def _datasets(
        self, train: Sequence[Case], context: Context, seed: int, *, masks: bool = True
    ) -> tuple[SegmentationDataset, SegmentationDataset]:
        """What is trained on, augmented, and the inner validation part, all decoded once."""
        config, validation = self.study.config, self._cases(context.fold.validation)
        size, varied = config.data.image_size, Augmentation(config.augment)
        store = FrameStore(self.cache, size, limit_gb=config.data.cache, hashes=self.hashes)
        store.keep([*train, *validation], masks=masks, reporter=context.reporter)
        made = partial(SegmentationDataset, seed=seed, store=store, masks=masks)
        return made(train, size, augmentation=varied), made(validation, size, augmentation=None)


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


def make_objective(config: PolypConfig) -> SegmentationObjective:
    """Return what the networks of a config are trained for.

    Raises:
        UnknownNameError: The loss is not known; the nearest name is given.
    """
    return SegmentationObjective(
        build_loss(config.loss.name), config.augment.scales, config.augment.scaling, config.loss.side_weight
    )
