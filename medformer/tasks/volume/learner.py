"""Learners on volumes: networks that segment or classify, and the label that each place mostly has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medformer.crossval.plan import Fold
from medformer.crossval.run.classes import ClassPredictor, labels_of
from medformer.crossval.run.contract import Context, Row
from medformer.data.cases import Case
from medformer.data.network_inputs import ItemImages, TrainingData
from medformer.data.volumes.plan.volume_plan import VolumePlan, read_volume_plan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import PatchData, WholeImages
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.errors import CheckpointError
from medformer.files import write_json
from medformer.imaging.geometry import reorient
from medformer.imaging.volumes import read_geometry, read_labels
from medformer.inference.baselines.volumes import LabelPrior
from medformer.inference.classification import ValidationLoss
from medformer.inference.export_table import Exports
from medformer.inference.volumes.components import Components, fit_components, same_rule, write_components
from medformer.inference.volumes.segmenter import ValidationVolumeDice, VolumeSegmenter
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.models.backbone.heads import Classifier
from medformer.models.networks.kernel import KernelPath
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.tasks.pretraining import first_encoder, pretrain_on_images
from medformer.tasks.start import record_start
from medformer.tasks.volume.dataset import Scans
from medformer.tasks.volume.network import (
    PLAN,
    Planner,
    metadata,
    new_network,
    plan_differences,
    planned_training,
    take_volumes,
)
from medformer.tasks.volume.pace import volume_pace
from medformer.tasks.volume.predictor import COMPONENTS, VolumePredictor, VolumeScorer, make_segmenter, scored_row
from medformer.tasks.volume.wide import fit_kernel, join
from medformer.tasks.wide import RECORD
from medformer.training.devices import choose_device
from medformer.training.fit import fit
from medformer.training.job import Validate
from medformer.training.losses.objectives import ClassificationObjective, Objective, VolumeObjective
from medformer.training.losses.segmentation import build_volume_loss
from medformer.training.pace import Pace
from medformer.training.pretraining.pretrain import read_encoder


@dataclass(frozen=True, kw_only=True)
class VolumeLearner:
    """What both learners share (a `NetworkLearner` but for `fit`).

    Attributes:
        study: The cases.
        planner: Plans from the training cases of a fold.
        cache: Folder of prepared volumes.
        hashes: SHA-256 of images and label maps by path, as far as they are known.
    """

    study: Scans
    planner: Planner
    cache: Path
    hashes: Mapping[Path, str]

    def pretrain(self, context: Context) -> Mapping[str, Any]:
        """Plan from all cases, and train an encoder to reconstruct hidden blocks of them; labels are not read."""
        out = context.folder
        plan = self.planner.plan_once(out / PLAN, list(self.study.by_id))
        return self._pretrain(plan, context, context.seed(), out, out / "pretraining.json")[1]

    def pace(self, fold: Fold) -> Pace:
        """See `NetworkLearner`."""
        extra = self.study.extra
        unlabeled = 0 if extra is None else len(extra.cases)
        return volume_pace(self.planner, self.planner.plan(fold.train), fold, unlabeled=unlabeled)

    def _prepared(self, context: Context) -> tuple[VolumePlan, PreparedStore, VolumeAugmentation]:
        """The fold's plan, its prepared cases (label maps too where the run segments), and how they are varied."""
        fold = context.fold
        plan = self.planner.plan_once(context.folder / PLAN, fold.train)
        cases = [self.study.by_id[name] for name in (*fold.train, *fold.validation)]
        store = self._store(plan, cases, context, labels=self.study.config.target == "segmentation")
        return plan, store, VolumeAugmentation(self.study.config.augment, plan.spacing)

    def _store(self, plan: VolumePlan, cases: Sequence[Case], context: Context, *, labels: bool) -> PreparedStore:
        memory, hashes, reporter = self.study.config.data.cache, self.hashes, context.reporter
        return PreparedStore(self.cache, plan, cases, memory_gb=memory, labels=labels, hashes=hashes, reporter=reporter)

    def _train(
        self,
        plan: VolumePlan,
        model: nn.Module,
        objective: Objective,
        data: TrainingData,
        judge: Validate,
        context: Context,
    ) -> None:
        """Train a network; it ends with its best weights."""
        config = self.study.config
        fit(
            model,
            objective,
            data,
            judge,
            planned_training(config, plan),
            **context.options(metadata(config, plan, context.fold, config.target), workers=config.data.workers),
        )

    def _first_network(self, plan: VolumePlan, context: Context) -> nn.Module:
        """The network that training starts from: as drawn, after pretraining, or with what fits of another run's."""
        config = self.study.config
        network = new_network(config, plan, derive_seed(context.seed(), "weights"))
        seed = derive_seed(context.seed(), "pretraining")
        encoder = first_encoder(
            config.pretraining,
            context.folder,
            partial(self._read_encoder, plan),
            partial(self._pretrain, plan, context, seed),
        )
        if encoder is not None:
            network.get_submodule("backbone").load_state_dict(encoder)
        if context.start is not None:
            record_start(
                context,
                take_volumes(context.start, network, config, plan),
                config,
                plan_differences(context.start, plan),
            )
        return network

    def _read_encoder(self, plan: VolumePlan, folder: Path) -> Mapping[str, Any]:
        """Read the encoder that `medformer volume pretrain` left.

        Raises:
            CheckpointError: There is none, or it is of another network or plan.
        """
        earlier = read_volume_plan(folder / PLAN)
        differing = [name for name in ("strides", "kernel_sizes") if getattr(earlier, name) != getattr(plan, name)]
        if differing:
            raise CheckpointError(
                f"pretraining.weights: the encoder in {folder} was planned with other {' and '.join(differing)}. "
                "Pretrain with the same plan.spacing and plan.patch as this run's."
            )
        return read_encoder(folder, masked_autoencoder(new_network(self.study.config, plan, 0)))

    def _pretrain(
        self, plan: VolumePlan, context: Context, seed: int, out: Path, record: Path
    ) -> tuple[MaskedAutoencoder, Mapping[str, Any]]:
        config, by_id = self.study.config, self.study.by_id
        extra = self.study.extra
        train = [*(by_id[name] for name in context.fold.train), *(() if extra is None else extra.cases)]
        validation = [by_id[name] for name in context.fold.validation]
        store = self._store(plan, [*train, *validation], context, labels=False)

        def patches(cases: Sequence[Case], augmentation: VolumeAugmentation | None) -> PatchData:
            names = [case.id for case in cases]
            return PatchData(store, plan, names, config=config.data, augmentation=augmentation, seed=seed)

        return pretrain_on_images(
            config,
            new_network(config, plan, derive_seed(seed, "weights")),
            patches(train, VolumeAugmentation(config.augment, plan.spacing)),
            patches(validation, None),
            planned_training(config, plan),
            context,
            unit="patches",
            seed=seed,
            out=out,
            record=record,
            metadata=metadata(config, plan, context.fold, "pretraining"),
        )


@dataclass(frozen=True, kw_only=True)
class SegmentationLearner(VolumeLearner):
    """Trains the network of a config to segment volumes (a `Learner`)."""

    def fit(self, context: Context) -> VolumePredictor:
        """Leave `plan.json`, `model.safetensors`, `history.csv` and `components.json` in the fold's folder."""
        config, fold, seed = self.study.config, context.fold, context.seed()
        plan, store, augmentation = self._prepared(context)
        model = self._first_network(plan, context)
        self._train(
            plan,
            model,
            VolumeObjective(build_volume_loss(config.loss.name, plan.membership), side_weight=config.loss.side_weight),
            PatchData(store, plan, fold.train, config=config.data, augmentation=augmentation, seed=seed),
            ValidationVolumeDice([store[name] for name in fold.validation], plan, config.inference.batch_size),
            context,
        )
        segmenter = make_segmenter([(model, plan)], config, choose_device(config.training.accelerator))
        segmenter.components = self._components(segmenter, plan, context)
        write_components(context.folder / COMPONENTS, segmenter.components)
        return VolumePredictor(segmenter, plan.found, config)

    def _components(self, segmenter: VolumeSegmenter, plan: VolumePlan, context: Context) -> Components:
        """Which connected components are kept: as the config says, or as learned on the inner validation part."""
        values = [value for value, _ in plan.labels]
        wanted = self.study.config.inference.components
        if plan.regions:
            return same_rule("all", [value for value, _ in plan.found])
        if wanted != "fit":
            return same_rule(wanted, values)
        cases = [self.study.by_id[name] for name in context.fold.validation]
        found = ((case, segmenter.segment(case)) for case in context.reporter.track(cases, "components"))
        pairs = ((made.array, read_labels(case.required_mask(), made.geometry).array) for case, made in found)
        return fit_components(pairs, values)


@dataclass(frozen=True, kw_only=True)
class ClassificationLearner(VolumeLearner):
    """Trains the network of a config to classify volumes (a `Learner`)."""

    def fit(self, context: Context) -> ClassPredictor:
        """Leave `plan.json`, `model.safetensors`, `history.csv` and `threshold.json` in the fold's folder."""
        config, fold, seed = self.study.config, context.fold, context.seed()
        plan, store, augmentation = self._prepared(context)
        labels = {name: case.required_label() for name, case in self.study.by_id.items()}
        judged = ItemImages(WholeImages(store, plan, fold.validation))
        judge = ValidationLoss(judged, labels_of(self.study.by_id, fold.validation), plan.batch_size)
        images = WholeImages(store, plan, fold.train, labels, augmentation=augmentation, seed=seed)
        model = self._first_network(plan, context)
        if isinstance(model, Classifier) and isinstance(model.wide, KernelPath):
            # As a ridge has it, whose scores are no log odds, what is left of them is judged by squares.
            images = replace(images, offsets=fit_kernel(model, model.wide, images, labels, batch_size=plan.batch_size))
            self._train(plan, model, ClassificationObjective("squared", inputs="image"), images, judge, context)
            held_out = np.asarray(judge.labels)
            gate = join(model, model.wide, judged, held_out, folder=context.folder, batch_size=plan.batch_size)
            write_json(context.folder / RECORD, {"networks": [gate]})
        else:
            self._train(plan, model, ClassificationObjective(inputs="image"), images, judge, context)
        return ClassPredictor.learn(
            VolumeScorer(model, plan, config, self.cache),
            self.study,
            context,
            calibrate=config.inference.calibrate,
            threshold=config.inference.threshold,
        )


@dataclass(frozen=True)
class PriorLearner:
    """Fits the label prior on the label maps of the training cases (a `Learner`).

    Attributes:
        study: The cases.
    """

    study: Scans

    def fit(self, context: Context) -> PriorPredictor:
        """Nothing is left in the fold's folder; an interrupted fold simply starts again."""
        values = np.array([0, *(value for value, _ in self.study.data.info.labels)])
        cases = (self.study.by_id[name] for name in context.fold.train)
        return PriorPredictor(LabelPrior(len(values)).fit(self._classes(case, values) for case in cases), values)

    def _classes(self, case: Case, values: NDArray[np.intp]) -> NDArray[np.intp]:
        """The classes of a case's label map, in the orientation of the plan."""
        labels = read_labels(case.required_mask(), read_geometry(case.required_image()))
        turned = reorient(labels.array, labels.geometry.affine, self.study.config.plan.orientation)[0]
        return np.searchsorted(values, turned)


@dataclass(frozen=True)
class PriorPredictor:
    """Predicts the prior for every volume (a `Predictor`); no label map is exported, so `mask` is empty.

    Attributes:
        prior: Fitted.
        values: Label value of each class.
    """

    prior: LabelPrior
    values: NDArray[np.intp]

    def predict(self, study: Scans, names: Sequence[str], out: Exports, reporter: Reporter) -> Iterator[Row]:
        """Yield the scores of each test case."""
        for case in reporter.track([study.by_id[name] for name in names], "prior_mask, test cases"):
            truth = read_labels(case.required_mask(), read_geometry(case.required_image()))
            found = np.zeros_like(truth.array)
            # A view in the prior's orientation: writing to it writes in the orientation of the case.
            turned = reorient(found, truth.geometry.affine, study.config.plan.orientation)[0]
            turned[...] = self.values[self.prior.predict(turned.shape)]
            yield scored_row(case, found, truth, study, mask="")
