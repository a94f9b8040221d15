"""The connectome networks of a fold: fit the features, pretrain, train the members, learn calibration and threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medformer.config import AbideConfig
from medformer.connectome.columns import Columns
from medformer.crossval.plan import Fold
from medformer.crossval.run.classes import ClassPredictor, labels_of
from medformer.crossval.run.contract import Context
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.start.source import Start
from medformer.data.connectomes.dataset import ConnectomeData
from medformer.files import digest, write_json
from medformer.inference.classification import ValidationLoss
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.models.connectome.classifier import ConnectomeClassifier, module_key
from medformer.models.timing import time_network
from medformer.models.transfer import Parts, Transfer, varying_axes
from medformer.seeds import derive_seed
from medformer.tasks.abide.features import (
    CohortFeatures,
    FoldFeatures,
    Inputs,
    read_columns,
    read_trained_on,
    write_trained_on,
)
from medformer.tasks.abide.predictor import ConnectomeScorer, Subjects, member_folder, new_network, seen
from medformer.tasks.abide.wide import fit_wide, join
from medformer.tasks.pretraining import first_encoder
from medformer.tasks.start import record_start, take
from medformer.tasks.wide import RECORD
from medformer.training.devices import choose_device
from medformer.training.fit import fit
from medformer.training.losses.objectives import ClassificationObjective
from medformer.training.pace import Pace, pretraining_steps, steps_of
from medformer.training.pretraining.masks import ConnectionMask
from medformer.training.pretraining.pretrain import (
    ReconstructionLoss,
    TrainingMean,
    pretrain,
    pretraining_settings,
    read_encoder,
)


@dataclass(frozen=True, kw_only=True)
class ConnectomeLearner:
    """Trains the networks of a config on connectomes (a `NetworkLearner`).

    Attributes:
        study: The subjects.
        features: Their raw features.
        encoders: A run on the same plan whose pretrained encoders are reused, since labels have no part in them.
    """

    study: Subjects
    features: CohortFeatures
    encoders: RunDirectory | None = None

    def fit(self, context: Context) -> ClassPredictor:
        """Leave features, weights and history per network, and `threshold.json` in the fold's folder."""
        config, fold, folder = self.study.config, context.fold, context.folder
        features, train = FoldFeatures.fit(config, self.features, fold.train)
        validation = features.transform(self.features, fold.validation)
        features.save(folder)
        write_trained_on(self.study.data, features.columns.atlases, folder)
        encoder = self._encoder(partial(self._pretrain, features, train, validation, context), context)
        trained = [self._train(number, encoder, train, validation, context) for number in range(config.members)]
        models = [model for model, _ in trained]
        if joined := [record for _, record in trained if record]:
            write_json(folder / RECORD, {"networks": joined})
        if fold.test:
            sites = {self.study.by_id[name].site for name in fold.train}
            unseen = [name for name in fold.test if self.study.by_id[name].site not in sites]
            write_json(folder / "inputs.json", {"unseen_sites": unseen})
        return ClassPredictor.learn(
            ConnectomeScorer(config, features, models, context.seed()),
            self.study,
            context,
            calibrate=config.inference.calibrate,
            threshold=config.inference.threshold,
            covariates=True,
        )

    def pretrain(self, context: Context) -> Mapping[str, Any]:
        """Train an encoder to reconstruct hidden connections of `context.fold`; labels are not read."""
        features, train = FoldFeatures.fit(self.study.config, self.features, context.fold.train)
        validation = features.transform(self.features, context.fold.validation)
        out = context.folder
        return self._pretrain(features, train, validation, context, out, out / "pretraining.json")[1]

    def pace(self, fold: Fold) -> Pace:
        """See `NetworkLearner`."""
        config, columns, extra = self.study.config, self.features.columns, self.study.extra
        training, wanted = config.training, config.pretraining
        model = new_network(config, columns, 0)
        count = min(training.batch_size, max(2, len(fold.train)))
        inputs = {block.atlas: torch.zeros(count, block.size) for block in columns.blocks}
        device = choose_device(training.accelerator).type
        timing = time_network(model, inputs, count, device=device, precision=training.precision)
        judged = len(fold.validation) * timing.case
        pretrained = len(fold.train) + (0 if extra is None else len(extra.cases))
        return Pace(
            steps=steps_of(len(fold.train), training.batch_size, training.devices),
            step=timing.step,
            validation=judged,
            after=config.members * (judged + len(fold.test) * timing.case),
            networks=config.members,
            pretraining=pretraining_steps(wanted, pretrained, wanted.batch_size, training.devices),
            batch_size=training.batch_size,
        )

    def _pretrain(
        self, features: FoldFeatures, train: Inputs, validation: Inputs, context: Context, out: Path, record: Path
    ) -> tuple[MaskedAutoencoder, Mapping[str, Any]]:
        config, seed = self.study.config, context.seed()
        wanted, names, edges = config.pretraining, list(context.fold.train), train
        if self.study.extra is not None:
            extra = self.study.extra
            more = features.transform(CohortFeatures(extra.data, config, features.columns), list(extra.by_id))
            edges = {atlas: np.concatenate([block, more[atlas]]) for atlas, block in train.items()}
            names += extra.by_id
        model = new_network(config, self.features.columns, derive_seed(seed, "pretraining"))
        network = autoencoder(config, model, derive_seed(seed, "decoder"))
        judge = ReconstructionLoss(
            connection_mask(config, self.features.columns),
            validation,
            TrainingMean(train),
            unit="subjects",
            seed=derive_seed(seed, "validation masks"),
        )
        quality = pretrain(
            network,
            ConnectomeData(edges, None, names, seed=seed),
            judge,
            pretraining_settings(config.training, wanted),
            record=record,
            **context.options(self._metadata(context, "pretraining"), out=out, seed=derive_seed(seed, "pretraining")),
        )
        return network, quality

    def _train(
        self,
        number: int,
        encoder: Mapping[str, torch.Tensor] | None,
        train: Inputs,
        validation: Inputs,
        context: Context,
    ) -> tuple[ConnectomeClassifier, dict[str, Any]]:
        """A network, and what is recorded of the linear model beside it, if there is one."""
        config, fold, seed = self.study.config, context.fold, derive_seed(context.seed(), "member", number)
        model = new_network(config, self.features.columns, derive_seed(seed, "weights"))
        if encoder is not None:
            model.encoder.load_state_dict(encoder)
        if context.start is not None:
            numbers = region_numbers(self.study)
            found = take_connectomes(context.start, model, config, self.features.columns, numbers, number)
            if number == 0:
                record_start(
                    context, found, config, column_differences(context.start, self.features.columns, config.members)
                )
        judged, batch_size = seen(config, validation, seed), config.inference.batch_size
        judge = ValidationLoss(judged, labels_of(self.study.by_id, fold.validation), batch_size)
        labels, out = labels_of(self.study.by_id, fold.train), member_folder(context.folder, number)
        offsets = fit_wide(model.wide, train, labels) if model.wide else None
        fit(
            model,
            ClassificationObjective(config.loss),
            ConnectomeData(train, labels, fold.train, noise=config.noise, seed=seed, offsets=offsets),
            judge,
            config.training,
            **context.options(self._metadata(context, "classifier"), out=out, seed=seed),
        )
        if not model.wide:
            return model, {}
        held_out = np.asarray(judge.labels)
        return model, join(model, model.wide, judged, held_out, folder=out, batch_size=batch_size)

    def _encoder(
        self, pretrain: Callable[[Path, Path], tuple[MaskedAutoencoder, Any]], context: Context
    ) -> Mapping[str, torch.Tensor] | None:
        """Weights of the encoder that training starts from; None to start from scratch."""
        wanted = self.study.config.pretraining
        if wanted.enabled and not wanted.weights and self.encoders is not None:
            earlier = self.encoders.fold(context.fold.index) / "pretraining"
            return self._read_encoder(earlier, self._metadata(context, "pretraining"))
        return first_encoder(wanted, context.folder, self._read_encoder, pretrain)

    def _read_encoder(self, folder: Path, metadata: Mapping[str, object] | None = None) -> Mapping[str, torch.Tensor]:
        network = new_network(self.study.config, self.features.columns, 0)
        return read_encoder(folder, autoencoder(self.study.config, network), metadata)

    def _metadata(self, context: Context, purpose: str) -> dict[str, object]:
        config = self.study.config
        return {
            "task": config.task,
            "purpose": purpose,
            "model": config.model.model_dump(mode="json"),
            "features": config.features.model_dump(mode="json"),
            "measure": config.data.measure,
            "regions": self.features.columns.regions,
            "pretraining": config.pretraining.model_dump(mode="json"),
            "fold": context.fold.index,
            "cases_sha256": digest([context.fold.train, context.fold.validation]),
        }


def connection_mask(config: AbideConfig, columns: Columns) -> ConnectionMask:
    """What masked pretraining hides."""
    wanted = config.pretraining
    return ConnectionMask(wanted.ratio, columns.regions, kind=wanted.mask, noise=wanted.noise)


def autoencoder(config: AbideConfig, network: ConnectomeClassifier, seed: int = 0) -> MaskedAutoencoder:
    """The autoencoder that masked pretraining trains around a network's encoder; see `masked_autoencoder`."""
    return masked_autoencoder(network, seed, across=config.pretraining.mask == "atlases")


def take_connectomes(
    start: Start,
    model: ConnectomeClassifier,
    config: AbideConfig,
    columns: Columns,
    numbers: Mapping[str, Sequence[str] | None],
    member: int = 0,
) -> Transfer:
    """Fill a network with what fits of another run's, which may have other atlases.

    An atlas is the same if its name, and as far as they are known the numbers of its regions, are the same. What joins
    all atlases is taken atlas by atlas.

    Args:
        start: The other network.
        model: With its first values.
        config: Of the run.
        columns: What the network is built for.
        numbers: What the files of this run call the regions of each atlas, if that is known.
        member: Which network of the fold.

    Raises:
        ConfigError: Hardly anything fits.
        CheckpointError: What the other network was built for cannot be read.
    """
    regions = columns.regions
    there, _ = read_trained_on(start.folder)
    other = [name for name in regions if name in there and _other_regions(there[name].numbers, numbers[name])]
    unlike = {
        key: "for other regions"
        for key in model.state_dict()
        if any(module_key(name) in key.split(".") for name in other)
    }
    parts: dict[str, Parts] = {}
    if tuple(there) != tuple(regions):
        one_more = replace(columns, blocks=(*columns.blocks, replace(columns.blocks[0], atlas="another")))
        joined = varying_axes(model, new_network(config, one_more, 0))
        parts = {name: Parts(axis, tuple(regions), tuple(there)) for name, axis in joined.items()}
    return take(start, model, config, member=member, parts=parts, unlike=unlike)


def region_numbers(study: Subjects) -> dict[str, Sequence[str] | None]:
    """What the files of a cohort call the regions of each atlas; None where they do not say."""
    return {name: block.numbers for name, block in study.data.store.atlases.items()}


def column_differences(start: Start, columns: Columns, members: int) -> list[str]:
    """How the connections and the number of networks differ from those of another run."""
    there = read_columns(start.folder)
    pairs = [("atlases", there.regions, columns.regions), ("diagonal", there.diagonal, columns.diagonal)]
    pairs += [("members", start.members, members)]
    return [f"{key} {other} there, {own} here" for key, other, own in pairs if other != own]


def _other_regions(there: Sequence[str] | None, here: Sequence[str] | None) -> bool:
    return there is not None and here is not None and list(there) != list(here)
