"""What a connectome run does in one fold: fit the features, pretrain, train, learn the threshold, predict once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.config import AbideConfig, TrainingConfig
from medformer.connectome.atlases import require_regions
from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.errors import CheckpointError, ConfigError
from medformer.files import digest, write_csv, write_json
from medformer.inference.classes.classification_validation import ValidationLoss
from medformer.inference.classes.classify import predict_scores
from medformer.inference.classes.connectome_validation import ReconstructionLoss
from medformer.inference.classes.decision import prediction_rows
from medformer.inference.classes.network_decision import learn_decision
from medformer.models.connectome.autoencoder import MaskedAutoencoder
from medformer.models.connectome.build import build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.models.connectome.defects import DEFECTS, active_defects
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.devices import check_devices, choose_device
from medformer.training.fit import fit
from medformer.training.losses.objectives import ClassificationObjective
from medformer.training.masking import MaskedReconstruction
from medformer.training.saving.checkpoint import load_model
from medformer.training.trackers.build import build_tracker
from pipelines.abide_features import CohortFeatures, FoldInputs, Inputs, atlas_pipeline, fold_inputs


class AbideFold:
    """The fold job of a connectome network (see `medformer.crossval.run.fold_job.FoldJob`).

    Args:
        config: The run's config.
        features: The cohort's raw features.
        labels: 1 (autism) or 0 (control) per id. Permuted labels are passed here.
        run: The folder that the job works in.
        reporter: Told about every step.
        extra: Unlabeled subjects for pretraining, none of whom is tested in any fold.
        encoders: A run on the same plan whose pretrained encoders are taken over, since labels take no part in them.
    """

    def __init__(
        self,
        config: AbideConfig,
        features: CohortFeatures,
        labels: Mapping[str, int],
        run: RunDirectory,
        reporter: Reporter,
        extra: CohortFeatures | None = None,
        encoders: RunDirectory | None = None,
    ) -> None:
        self.config = config
        self.features = features
        self.labels = labels
        self.run = run
        self.reporter = reporter
        self.extra = extra
        self.encoders = encoders

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave weights and history per network, `pretraining.json`, `threshold.json` and `predictions.csv`."""
        inputs = fold_inputs(self.config, self.features, fold, self.extra)
        seed = derive_seed(self.config.seed, "repeat", fold.repeat, "fold", fold.index)
        pretrained = self._pretrain(inputs, fold, folder / "pretraining", seed, resume)
        models = [
            self._train(
                inputs, fold, member_folder(folder, member), derive_seed(seed, "member", member), pretrained, resume
            )
            for member in range(self.config.members)
        ]
        decision = learn_decision(
            folder,
            fold.validation,
            self._labels(fold.validation),
            self._scores(models, inputs.validation, fold.validation, seed),
            calibrate=self.config.inference.calibrate,
            threshold=self.config.inference.threshold,
        )
        if fold.test:
            rows = prediction_rows(
                fold.test,
                self._labels(fold.test),
                decision.probabilities(self._scores(models, inputs.test, fold.test, seed)),
                decision.threshold,
                sites={name: self.features.cohort.by_id[name].site for name in fold.test},
                covariates={name: self.features.cohort.by_id[name].covariates for name in fold.test},
            )
            write_csv(folder / "predictions.csv", rows, list(rows[0]))
            write_json(folder / "inputs.json", {"unseen_sites": list(inputs.unseen_sites)})

    def _pretrain(
        self, inputs: FoldInputs, fold: Fold, out: Path, seed: int, resume: bool
    ) -> dict[str, torch.Tensor] | None:
        """Train the encoder to reconstruct what is hidden from it; return its weights."""
        wanted = self.config.pretraining
        if wanted.weights:
            return read_encoder(self.config, self.features, Path(wanted.weights))
        if not wanted.enabled:
            return None
        metadata = self._metadata(fold, "pretraining")
        if self.encoders is not None:
            return read_encoder(self.config, self.features, self.encoders.fold(fold.index) / "pretraining", metadata)
        subjects = {
            atlas: np.concatenate([block, inputs.extra[atlas]]) if inputs.extra else block
            for atlas, block in inputs.train.items()
        }
        network, validation = pretrain_encoder(
            self.config,
            self.features,
            ConnectomeData(subjects, None, [*fold.train, *(self.extra or ())], seed=seed),
            inputs.validation,
            out=out,
            seed=seed,
            resume=resume,
            metadata=metadata,
            run=self.run.path,
            reporter=self.reporter,
        )
        write_json(out.with_suffix(".json"), validation.against_mean(network, inputs.train))
        return {name: value.clone() for name, value in network.encoder.state_dict().items()}

    def _train(
        self,
        inputs: FoldInputs,
        fold: Fold,
        out: Path,
        seed: int,
        pretrained: Mapping[str, torch.Tensor] | None,
        resume: bool,
    ) -> ConnectomeClassifier:
        config = self.config
        model = new_network(config, self.features, derive_seed(seed, "weights"))
        if pretrained is not None:
            model.encoder.load_state_dict(pretrained)
        validation = ValidationLoss(
            self._seen(inputs.validation, seed), self._labels(fold.validation), config.inference.batch_size
        )
        fit(
            model,
            ClassificationObjective(config.loss),
            ConnectomeData(inputs.train, self._labels(fold.train), fold.train, noise=config.noise, seed=seed),
            validation,
            config.training,
            out=out,
            seed=seed,
            resume=resume,
            metadata=self._metadata(fold, "classifier"),
            run=self.run.path,
            reporter=self.reporter,
        )
        return model

    def _metadata(self, fold: Fold, purpose: str) -> dict[str, object]:
        config = self.config
        return {
            "task": config.task,
            "purpose": purpose,
            "model": config.model.model_dump(mode="json"),
            "features": config.features.model_dump(mode="json"),
            "measure": config.data.measure,
            "regions": self.features.regions,
            "pretraining": config.pretraining.model_dump(mode="json"),
            "fold": fold.index,
            "cases_sha256": digest([fold.train, fold.validation]),
        }

    def _scores(
        self, models: Sequence[ConnectomeClassifier], edges: Inputs, ids: Sequence[str], seed: int
    ) -> NDArray[np.float64]:
        return predict_scores(
            models,
            self._seen(edges, seed),
            ids=ids,
            batch_size=self.config.inference.batch_size,
            device=choose_device(self.config.training.accelerator),
        )

    def _seen(self, edges: Inputs, seed: int) -> Inputs:
        """What a network is given to judge: the features, and noise where that defect is asked for."""
        if "noise_at_test" not in active_defects(self.config.model):
            return edges
        rng = np.random.default_rng(derive_seed(seed, "noise at test"))
        return {
            atlas: block + rng.normal(0.0, self.config.noise, block.shape).astype(np.float32)
            for atlas, block in edges.items()
        }

    def _labels(self, names: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.labels[name] for name in names], np.int64)


def member_folder(folder: Path, member: int) -> Path:
    """Where a network of a fold is: the first in the fold's own folder, the others below it."""
    return folder if member == 0 else folder / "members" / str(member)


def new_network(config: AbideConfig, features: CohortFeatures, seed: int) -> ConnectomeClassifier:
    """Build the network of a config with first weights that a seed decides.

    Raises:
        DataError: A known atlas has another number of regions.
        ConfigError: The config names no network that can be built.
    """
    for atlas, regions in features.regions.items():
        require_regions(atlas, regions)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_connectome_model(config.model, features.regions, diagonal=features.diagonal)


def check_settings(config: AbideConfig, features: CohortFeatures) -> None:
    """Build what every fold will build, so that a wrong name or number ends the run at once.

    Raises:
        ConfigError: An unknown name, or settings that do not go together.
        DataError: A known atlas has another number of regions.
        ResourceError: The device is not there.
    """
    if config.execution.address is None:
        check_devices(config.training)
    build_tracker(config.training.tracker, Path(), Path())
    spoken = sorted(name for name in active_defects(config.model) if DEFECTS[name].part == "evaluation")
    if spoken:
        raise ConfigError(
            f"model.defects: {', '.join(spoken)} changes how scores are judged and not what is predicted, so no run "
            "has it. Leave it out; benchmarks/abide_accuracy.py tells its effect from a run's table."
        )
    for atlas in features.columns.atlases:
        atlas_pipeline(config, features.columns, atlas)
    with torch.device("meta"):
        new_network(config, features, 0)


def read_networks(config: AbideConfig, features: CohortFeatures, folder: Path) -> list[ConnectomeClassifier]:
    """Read the networks of a fold that is done.

    Raises:
        CheckpointError: Weights are missing, damaged or of another network.
    """
    models = []
    for member in range(config.members):
        model = new_network(config, features, 0)
        load_model(member_folder(folder, member) / "model.safetensors", model)
        models.append(model.eval())
    return models


def pretrain_encoder(
    config: AbideConfig,
    features: CohortFeatures,
    subjects: ConnectomeData,
    validation: Inputs,
    *,
    out: Path,
    seed: int,
    resume: bool,
    metadata: Mapping[str, object],
    run: Path,
    reporter: Reporter,
) -> tuple[MaskedAutoencoder, ReconstructionLoss]:
    """Train the encoder of a config's network to reconstruct what is hidden from it; labels are not read.

    Returns:
        The network with its best weights, and what judged it.
    """
    wanted = config.pretraining
    model = new_network(config, features, derive_seed(seed, "pretraining"))
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "decoder"))
        network = MaskedAutoencoder(model)
    objective = MaskedReconstruction(wanted.ratio, features.regions, kind=wanted.mask, noise=wanted.noise)
    judge = ReconstructionLoss(objective, validation, seed=derive_seed(seed, "validation masks"))
    fit(
        network,
        objective,
        subjects,
        judge,
        pretraining_config(config),
        out=out,
        seed=derive_seed(seed, "pretraining"),
        resume=resume,
        metadata=metadata,
        run=run,
        reporter=reporter,
    )
    return network, judge


def read_encoder(
    config: AbideConfig, features: CohortFeatures, folder: Path, metadata: Mapping[str, object] | None = None
) -> dict[str, torch.Tensor]:
    """Read a pretrained encoder from a folder.

    Raises:
        CheckpointError: There is none, it is of another network, or its metadata are not these.
    """
    network = MaskedAutoencoder(new_network(config, features, 0))
    found = load_model(folder / "model.safetensors", network)
    wrong = [key for key, value in (metadata or {}).items() if json.loads(json.dumps(value)) != found.get(key)]
    if wrong:
        raise CheckpointError(
            f"The encoder in {folder} differs in {', '.join(wrong)} from what this fold needs. Pretrain again."
        )
    return network.encoder.state_dict()


def pretraining_config(config: AbideConfig) -> TrainingConfig:
    """How pretraining trains: as the classifier does, but for what the section `pretraining` says."""
    wanted = config.pretraining
    return config.training.model_copy(
        update={
            "epochs": wanted.epochs,
            "minutes": None,
            "batch_size": wanted.batch_size,
            "lr": wanted.lr,
            "patience": wanted.patience,
        }
    )
