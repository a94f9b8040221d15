"""What a polyp run does in one fold: train, learn the threshold, predict the fold's test cases once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medformer.config import PolypConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.data.frames.dataset import SegmentationDataset
from medformer.data.frames.multiscale import resize_batch
from medformer.data.frames.transforms import Augmentation
from medformer.data.manifest import Case, path_from
from medformer.errors import ConfigError
from medformer.evaluation.masks.segmentation import case_row
from medformer.files import digest, read_json, write_csv
from medformer.imaging.images import read_image, read_mask
from medformer.inference.frames.export import export_case
from medformer.inference.frames.segment import Segmenter, ValidationDice
from medformer.inference.threshold import DiceThreshold, learn_threshold
from medformer.models.backbone.weights import load_pretrained
from medformer.models.networks.build import build_model
from medformer.models.networks.meta_polyp import MetaPolyp
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.devices import check_devices, choose_device
from medformer.training.fit import fit
from medformer.training.losses.image_losses import build_loss
from medformer.training.losses.objectives import SegmentationObjective
from medformer.training.trackers.build import build_tracker

# Columns of an exported case that join its scores in the out-of-fold table.
_EXPORTED = ("components", "confidence")


class PolypFold:
    """The fold job of the polyp task (see `medformer.crossval.run.execute.FoldJob`).

    Args:
        config: The run's config.
        cases: Cases of the manifest by id.
        run: Where masks go.
        root: Folder that image paths in tables are relative to.
        reporter: Told about every step.
    """

    def __init__(
        self, config: PolypConfig, cases: Mapping[str, Case], run: RunDirectory, root: Path, reporter: Reporter
    ) -> None:
        self.config = config
        self.cases = cases
        self.run = run
        self.root = root
        self.reporter = reporter

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `model.safetensors`, `history.csv`, `threshold.json` and `predictions.csv` in `folder`."""
        model = self._train(fold, folder, resume)
        segmenter = make_segmenter([model], self.config, choose_device(self.config.training.accelerator))
        threshold = self._threshold(segmenter, fold, folder)
        if fold.test:
            rows = list(self._predict(segmenter, threshold, fold))
            write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _train(self, fold: Fold, folder: Path, resume: bool) -> nn.Module:
        config, seed = self.config, derive_seed(self.config.seed, "repeat", fold.repeat, "fold", fold.index)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "weights"))
            model = _build_network(config)
        train = self._dataset(fold.train, Augmentation(config.augment), seed)
        validation = ValidationDice(self._dataset(fold.validation, None, seed), config.training.batch_size)
        fit(
            model,
            SegmentationObjective(build_loss(config.loss.name), config.augment.scales),
            train,
            validation,
            config.training,
            out=folder,
            seed=seed,
            workers=config.data.workers,
            resume=resume,
            metadata={
                "task": config.task,
                "model": config.model.model_dump(mode="json"),
                "image_size": list(config.data.image_size),
                "loss": config.loss.name,
                "augment": config.augment.model_dump(mode="json"),
                "fold": fold.index,
                "cases_sha256": digest([fold.train, fold.validation]),
            },
            reporter=self.reporter,
            run=self.run.path,
        )
        return model

    def _threshold(self, segmenter: Segmenter, fold: Fold, folder: Path) -> float:
        truths = (read_mask(self.cases[name].required_mask()) for name in fold.validation)
        maps = (probability for _, _, probability in self._maps(segmenter, fold.validation, "threshold"))
        return learn_threshold(
            self.config.inference.threshold,
            DiceThreshold(),
            maps,
            truths,
            cases=len(fold.validation),
            path=folder / "threshold.json",
        )

    def _predict(self, segmenter: Segmenter, threshold: float, fold: Fold) -> Iterator[dict[str, Any]]:
        for case, image, probability in self._maps(segmenter, fold.test, "test cases"):
            truth = read_mask(case.required_mask())
            exported = export_case(
                self.run.path,
                case.id,
                image,
                probability,
                threshold,
                probabilities=self.config.inference.probabilities,
                truth=truth,
            )
            yield {
                "id": case.id,
                "site": case.site,
                **case_row(case.id, probability, truth, threshold=threshold),
                **{name: exported[name] for name in _EXPORTED},
                "mask": exported["mask_file"],
                "image": path_from(self.root, case.required_image()),
                "truth": path_from(self.root, case.required_mask()),
            }

    def _maps(self, segmenter: Segmenter, names: Sequence[str], label: str) -> Iterator[tuple[Case, Any, Any]]:
        """Yield case, image and probability map, decoding one batch at a time."""
        self.reporter.start(label, len(names))
        try:
            for first in range(0, len(names), segmenter.batch_size):
                cases = [self.cases[name] for name in names[first : first + segmenter.batch_size]]
                images = [read_image(case.required_image()) for case in cases]
                for case, image, probability in zip(
                    cases, images, segmenter.predict(images, [case.id for case in cases]), strict=True
                ):
                    yield case, image, probability
                    self.reporter.advance()
        finally:
            self.reporter.finish()

    def _dataset(self, names: Sequence[str], augmentation: Augmentation | None, seed: int) -> SegmentationDataset:
        return SegmentationDataset(
            [self.cases[name] for name in names],
            self.config.data.image_size,
            augmentation=augmentation,
            seed=seed,
            cache=self.config.data.cache,
        )


def check_settings(config: PolypConfig) -> None:
    """Build what every fold will build, so that a wrong name or file ends the run at once and not after the audit.

    Raises:
        ConfigError: An unknown name, or a network that cannot train on images of this size.
        CheckpointError: `model.weights` cannot be read or does not fit.
        ResourceError: The device is not there.
    """
    if config.execution.address is None:
        # A cluster's head may lack what its workers have; there the first fold tells.
        check_devices(config.training)
    build_tracker(config.training.tracker, Path(), Path())
    build_loss(config.loss.name)
    # On the meta device shapes are followed but nothing is computed.
    network = _build_network(config).to("meta").train()
    cases, size = min(2, config.training.batch_size), config.data.image_size
    with torch.device("meta"):
        batch = {"image": torch.empty(cases, 3, *size), "mask": torch.empty(cases, 1, *size)}
    smallest = resize_batch(batch, min(config.augment.scales))["image"]
    try:
        network(smallest)
    except NotImplementedError:
        # An operation that only knows real tensors: the first step of the training will tell.
        return
    except (AssertionError, RuntimeError, ValueError) as error:
        rows, columns = smallest.shape[-2:]
        raise ConfigError(
            f"{config.model.name} cannot train on {cases} image(s) of {rows} x {columns} px ({error}). "
            "Raise data.image_size, training.batch_size or augment.scales, or choose another model."
        ) from error


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


def fold_threshold(folder: Path) -> float:
    """Read the threshold that a fold learned."""
    return float(read_json(folder / "threshold.json")["threshold"])


def _build_network(config: PolypConfig) -> nn.Module:
    model = build_model(config.model)
    if config.model.weights:
        if not isinstance(model, MetaPolyp):
            raise ConfigError(
                f"model.weights fills a MetaFormer encoder, and {config.model.name} has none. Set model.weights=null."
            )
        load_pretrained(model.backbone, config.model.weights)
    return model
