"""Networks on volumes: plan, prepare, perhaps pretrain, train; one learner segments, the other classifies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from medformer.crossval.run.classes import ClassPredictor, labels_of
from medformer.crossval.run.contract import Context
from medformer.data.manifest import Case
from medformer.data.volumes.plan.volume_plan import VolumePlan, read_plan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.images import WholeImages
from medformer.data.volumes.prepare.patches import PatchData
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.errors import CheckpointError
from medformer.files import write_json
from medformer.imaging.volumes import read_labels
from medformer.inference.classes.classification_validation import ValidationLoss
from medformer.inference.classes.network_decision import learn_decision
from medformer.inference.network_inputs import ItemImages
from medformer.inference.volumes.components import Components, all_alike, fit_components, write_components
from medformer.inference.volumes.reconstruction import VolumeReconstructionLoss
from medformer.inference.volumes.segmenter import VolumeSegmenter
from medformer.inference.volumes.validation import ValidationVolumeDice
from medformer.models.networks.volume_autoencoder import MaskedVolumeAutoencoder
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.tasks.volume.network import metadata, new_network, planned_training
from medformer.tasks.volume.planner import PLAN, Planner
from medformer.tasks.volume.predictor import COMPONENTS, VolumeMember, VolumePredictor, make_segmenter
from medformer.training.devices import choose_device
from medformer.training.fit import fit
from medformer.training.job import Validate
from medformer.training.loader import TrainingData
from medformer.training.losses.objectives import ClassificationObjective, Objective, VolumeObjective
from medformer.training.losses.volume_losses import build_volume_loss
from medformer.training.saving.checkpoint import load_model
from medformer.training.volume_masking import MaskedVolumes

if TYPE_CHECKING:
    from medformer.tasks.volume.study import VolumeStudy


@dataclass(frozen=True, kw_only=True)
class VolumeLearner:
    """What both learners share (a `Pretrainer`).

    Attributes:
        study: The cases.
        planner: Plans from the training cases of a fold.
        cache: Folder of prepared volumes.
        extra: Unlabeled cases for pretraining, none of which is tested in any fold.
    """

    study: VolumeStudy
    planner: Planner
    cache: Path
    extra: Sequence[Case] = ()

    def pretrain(self, context: Context) -> Mapping[str, Any]:
        """Plan from all cases, and train an encoder to reconstruct hidden blocks of them; labels are not read."""
        plan = self.planner.plan_once(context.folder / PLAN, list(self.study.by_id))
        _, judge, network = self._pretrain(plan, context, context.folder, context.seed())
        return judge.against_mean(network)

    def _store(self, plan: VolumePlan, names: Sequence[str], reporter: Reporter) -> PreparedStore:
        """Prepared cases, with their label maps where the run segments."""
        return PreparedStore(
            self.cache,
            plan,
            [self.study.by_id[name] for name in names],
            memory_gb=self.study.config.data.cache,
            labels=self.study.config.target == "segmentation",
            reporter=reporter,
        )

    def _train(
        self, plan: VolumePlan, objective: Objective, data: TrainingData, judge: Validate, context: Context
    ) -> nn.Module:
        """Train a network, pretrained where that is asked for, and return it with its best weights."""
        config = self.study.config
        model = self._first_network(plan, context)
        fit(
            model,
            objective,
            data,
            judge,
            planned_training(config, plan),
            out=context.folder,
            seed=context.seed(),
            workers=config.data.workers,
            resume=context.resume,
            metadata=metadata(config, plan, context.fold, config.target),
            run=context.run.path,
            reporter=context.reporter,
        )
        return model

    def _first_network(self, plan: VolumePlan, context: Context) -> nn.Module:
        """The network that training starts from: as drawn, or with an encoder that reconstructed hidden blocks."""
        config = self.study.config
        network = new_network(config, plan, derive_seed(context.seed(), "weights"))
        if config.pretraining.weights:
            encoder = self._read_encoder(plan, Path(config.pretraining.weights))
        elif config.pretraining.enabled:
            folder, seed = context.folder / "pretraining", derive_seed(context.seed(), "pretraining")
            encoder, judge, pretrained = self._pretrain(plan, context, folder, seed)
            write_json(context.folder / "pretraining.json", judge.against_mean(pretrained))
        else:
            return network
        network.get_submodule("backbone").load_state_dict(encoder)
        return network

    def _read_encoder(self, plan: VolumePlan, folder: Path) -> Mapping[str, Any]:
        """Read the encoder that `medformer volume pretrain` left.

        Raises:
            CheckpointError: There is none, or it is of another network or plan.
        """
        earlier = read_plan(folder / PLAN)
        differing = [name for name in ("strides", "kernel_sizes") if getattr(earlier, name) != getattr(plan, name)]
        if differing:
            raise CheckpointError(
                f"pretraining.weights: the encoder in {folder} was planned with other {' and '.join(differing)}. "
                "Pretrain with the same plan.spacing and plan.patch as this run's."
            )
        network = MaskedVolumeAutoencoder(new_network(self.study.config, plan, 0))
        load_model(folder / "model.safetensors", network)
        return network.backbone.state_dict()

    def _pretrain(
        self, plan: VolumePlan, context: Context, out: Path, seed: int
    ) -> tuple[Mapping[str, Any], VolumeReconstructionLoss, MaskedVolumeAutoencoder]:
        config, by_id = self.study.config, self.study.by_id
        wanted = config.pretraining
        train = [*(by_id[name] for name in context.fold.train), *self.extra]
        validation = [by_id[name] for name in context.fold.validation]
        store = PreparedStore(
            self.cache,
            plan,
            [*train, *validation],
            memory_gb=config.data.cache,
            labels=False,
            reporter=context.reporter,
        )
        network = MaskedVolumeAutoencoder(new_network(config, plan, derive_seed(seed, "weights")))
        objective = MaskedVolumes(wanted.block, wanted.ratio)

        def patches(cases: Sequence[Case], augmentation: VolumeAugmentation | None) -> PatchData:
            names = [case.id for case in cases]
            return PatchData(store, plan, names, config=config.data, augmentation=augmentation, seed=seed)

        judge = VolumeReconstructionLoss(
            objective,
            ItemImages(patches(validation, None)),
            config.inference.batch_size,
            seed=derive_seed(seed, "validation masks"),
        )
        settings = {"epochs": wanted.epochs, "lr": wanted.lr, "minutes": None, "patience": 0}
        fit(
            network,
            objective,
            patches(train, VolumeAugmentation(config.augment, plan.spacing)),
            judge,
            planned_training(config, plan).model_copy(update=settings),
            out=out,
            seed=seed,
            workers=config.data.workers,
            resume=context.resume,
            metadata=metadata(config, plan, context.fold, "pretraining"),
            run=context.run.path,
            reporter=context.reporter,
        )
        return network.backbone.state_dict(), judge, network


@dataclass(frozen=True, kw_only=True)
class SegmentationLearner(VolumeLearner):
    """Trains the network of a config to segment volumes (a `Learner`)."""

    def fit(self, context: Context) -> VolumePredictor:
        """Leave `plan.json`, `model.safetensors`, `history.csv` and `components.json` in the fold's folder."""
        config, fold, seed = self.study.config, context.fold, context.seed()
        plan = self.planner.plan_once(context.folder / PLAN, fold.train)
        store = self._store(plan, [*fold.train, *fold.validation], context.reporter)
        augmentation = VolumeAugmentation(config.augment, plan.spacing)
        model = self._train(
            plan,
            VolumeObjective(build_volume_loss(config.loss.name)),
            PatchData(store, plan, fold.train, config=config.data, augmentation=augmentation, seed=seed),
            ValidationVolumeDice([store[name] for name in fold.validation], plan, config.inference.batch_size),
            context,
        )
        segmenter = make_segmenter([(model, plan)], config, choose_device(config.training.accelerator))
        segmenter.components = self._components(segmenter, plan, context)
        write_components(context.folder / COMPONENTS, segmenter.components)
        return VolumePredictor(segmenter, plan.labels, config)

    def _components(self, segmenter: VolumeSegmenter, plan: VolumePlan, context: Context) -> Components:
        """Which connected components are kept: as the config says, or as learned on the inner validation part."""
        values = [value for value, _ in plan.labels]
        wanted = self.study.config.inference.components
        if wanted != "fit":
            return all_alike(wanted, values)
        cases = [self.study.by_id[name] for name in context.fold.validation]
        pairs = (
            (segmenter.segment(case).array, read_labels(case.required_mask()).array)
            for case in context.reporter.track(cases, "components")
        )
        return fit_components(pairs, values)


@dataclass(frozen=True, kw_only=True)
class ClassificationLearner(VolumeLearner):
    """Trains the network of a config to classify volumes (a `Learner`)."""

    def fit(self, context: Context) -> ClassPredictor:
        """Leave `plan.json`, `model.safetensors`, `history.csv` and `threshold.json` in the fold's folder."""
        config, fold, seed = self.study.config, context.fold, context.seed()
        plan = self.planner.plan_once(context.folder / PLAN, fold.train)
        store = self._store(plan, [*fold.train, *fold.validation], context.reporter)
        augmentation = VolumeAugmentation(config.augment, plan.spacing)
        labels = {name: case.required_label() for name, case in self.study.by_id.items()}
        known = labels_of(self.study.by_id, fold.validation)
        judged = ItemImages(WholeImages(store, plan, fold.validation))
        model = self._train(
            plan,
            ClassificationObjective(inputs="image"),
            WholeImages(store, plan, fold.train, labels, augmentation=augmentation, seed=seed),
            ValidationLoss(judged, known, plan.batch_size),
            context,
        )
        judge = VolumeMember(model, plan, config, self.cache)
        decision = learn_decision(
            context.folder,
            fold.validation,
            known,
            judge.scores(self.study, fold.validation),
            calibrate=config.inference.calibrate,
            threshold=config.inference.threshold,
        )
        return ClassPredictor([VolumeMember(model, plan, config, self.cache, decision)], decision.threshold)
