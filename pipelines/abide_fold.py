"""What a connectome run does in one fold: fit the features, pretrain, train, learn the threshold, predict once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.config import AbideConfig
from medformer.connectome.atlases import require_regions
from medformer.crossval.plan import Fold
from medformer.crossval.run.directory import RunDirectory
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.errors import ConfigError
from medformer.files import digest, write_csv, write_json
from medformer.inference.classes.classify import ValidationLoss, predict_scores
from medformer.inference.classes.decision import learn_decision, prediction_rows
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.models.connectome.build import build_connectome_model
from medformer.models.connectome.classifier import ConnectomeClassifier
from medformer.models.connectome.defects import DEFECTS, active_defects
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.devices import check_devices, choose_device
from medformer.training.fit import fit
from medformer.training.losses.objectives import ClassificationObjective
from medformer.training.pretraining.masks import ConnectionMask
from medformer.training.pretraining.pretrain import pretrain, pretraining_settings, read_encoder
from medformer.training.pretraining.reconstruction import ReconstructionLoss, TrainingMean
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
            return self._read_encoder(Path(wanted.weights))
        if not wanted.enabled:
            return None
        metadata = self._metadata(fold, "pretraining")
        if self.encoders is not None:
            return self._read_encoder(self.encoders.fold(fold.index) / "pretraining", metadata)
        subjects = {
            atlas: np.concatenate([block, inputs.extra[atlas]]) if inputs.extra else block
            for atlas, block in inputs.train.items()
        }
        network, _ = pretrain_encoder(
            self.config,
            self.features,
            ConnectomeData(subjects, None, [*fold.train, *(self.extra or ())], seed=seed),
            inputs,
            out=out,
            record=out.with_suffix(".json"),
            seed=seed,
            resume=resume,
            metadata=metadata,
            run=self.run.path,
            reporter=self.reporter,
        )
        return {name: value.clone() for name, value in network.encoder.state_dict().items()}

    def _read_encoder(self, folder: Path, metadata: Mapping[str, object] | None = None) -> dict[str, torch.Tensor]:
        return read_encoder(folder, masked_autoencoder(new_network(self.config, self.features, 0)), metadata)

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
    inputs: FoldInputs,
    *,
    out: Path,
    record: Path,
    seed: int,
    resume: bool,
    metadata: Mapping[str, object],
    run: Path,
    reporter: Reporter,
) -> tuple[MaskedAutoencoder, dict[str, Any]]:
    """Train the encoder of a config's network to reconstruct what is hidden from it; labels are not read.

    Returns:
        The network with its best weights, and how well it reconstructs.
    """
    wanted = config.pretraining
    model = new_network(config, features, derive_seed(seed, "pretraining"))
    network = masked_autoencoder(model, derive_seed(seed, "decoder"))
    judge = ReconstructionLoss(
        ConnectionMask(wanted.ratio, features.regions, kind=wanted.mask, noise=wanted.noise),
        inputs.validation,
        TrainingMean(inputs.train),
        unit="subjects",
        seed=derive_seed(seed, "validation masks"),
    )
    quality = pretrain(
        network,
        subjects,
        judge,
        pretraining_settings(config.training, wanted),
        out=out,
        record=record,
        seed=derive_seed(seed, "pretraining"),
        resume=resume,
        metadata=metadata,
        run=run,
        reporter=reporter,
    )
    return network, quality
