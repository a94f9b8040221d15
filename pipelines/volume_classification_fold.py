"""What a classification of volumes does in one fold: plan, prepare, pretrain, train, decide, predict once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run_directory import RunDirectory
from medformer.data.manifest import Case
from medformer.data.volumes.augment import VolumeAugmentation
from medformer.data.volumes.images import WholeImages
from medformer.data.volumes.plan import VolumePlan
from medformer.data.volumes.store import PreparedStore
from medformer.files import write_csv
from medformer.inference.classification_validation import ValidationLoss
from medformer.inference.classify import predict_scores
from medformer.inference.decision import prediction_rows
from medformer.inference.network_decision import learn_decision
from medformer.inference.network_inputs import ItemImages
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.devices import choose_device
from medformer.training.fit import fit
from medformer.training.objectives import ClassificationObjective
from pipelines.volume_fold import PLAN
from pipelines.volume_network import metadata, planned_training
from pipelines.volume_plan import Planner
from pipelines.volume_pretrain import first_network


class VolumeClassificationFold:
    """The fold job of a classification (see `medformer.crossval.fold_job.FoldJob`).

    Args:
        config: The run's config.
        planner: Plans from the training cases of a fold.
        cases: Cases of the manifest by id.
        labels: 1 (positive) or 0 per id. Permuted labels are passed here.
        run: The folder that the job works in.
        cache: Folder of prepared volumes.
        reporter: Told about every step.
        extra: Unlabeled cases for pretraining, none of whom is tested in any fold.
    """

    def __init__(
        self,
        config: VolumeConfig,
        planner: Planner,
        cases: Mapping[str, Case],
        labels: Mapping[str, int],
        run: RunDirectory,
        cache: Path,
        reporter: Reporter,
        extra: Sequence[Case] = (),
    ) -> None:
        self.config = config
        self.planner = planner
        self.cases = cases
        self.labels = labels
        self.run = run
        self.cache = cache
        self.reporter = reporter
        self.extra = extra

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `plan.json`, `model.safetensors`, `history.csv`, `threshold.json` and `predictions.csv`."""
        plan = self.planner.settle(folder / PLAN, fold.train)
        model = self._train(plan, fold, folder, resume)
        decision = learn_decision(
            folder,
            fold.validation,
            self._labels(fold.validation),
            self._scores(model, plan, fold.validation),
            calibrate=self.config.inference.calibrate,
            threshold=self.config.inference.threshold,
        )
        if fold.test:
            rows = prediction_rows(
                fold.test,
                self._labels(fold.test),
                decision.probabilities(self._scores(model, plan, fold.test)),
                decision.threshold,
                sites={name: self.cases[name].site for name in fold.test},
            )
            write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _train(self, plan: VolumePlan, fold: Fold, folder: Path, resume: bool) -> nn.Module:
        config = self.config
        seed = derive_seed(config.seed, "repeat", fold.repeat, "fold", fold.index)
        model = first_network(
            config,
            plan,
            fold,
            self.cases,
            self.extra,
            folder=folder,
            cache=self.cache,
            seed=seed,
            resume=resume,
            run=self.run.path,
            reporter=self.reporter,
        )
        store = self._store(plan, [*fold.train, *fold.validation])
        fit(
            model,
            ClassificationObjective(inputs="image"),
            WholeImages(
                store,
                plan,
                fold.train,
                self.labels,
                augmentation=VolumeAugmentation(config.augment, plan.spacing),
                seed=seed,
            ),
            ValidationLoss(
                ItemImages(WholeImages(store, plan, fold.validation)),
                self._labels(fold.validation),
                plan.batch_size,
            ),
            planned_training(config, plan),
            out=folder,
            seed=seed,
            workers=config.data.workers,
            resume=resume,
            metadata=metadata(config, plan, fold, "classification"),
            run=self.run.path,
            reporter=self.reporter,
        )
        return model

    def _store(self, plan: VolumePlan, names: Sequence[str]) -> PreparedStore:
        return PreparedStore(
            self.cache,
            plan,
            [self.cases[name] for name in names],
            memory_gb=self.config.data.cache,
            labels=False,
            reporter=self.reporter,
        )

    def _scores(self, model: nn.Module, plan: VolumePlan, names: Sequence[str]) -> NDArray[np.float64]:
        return predict_scores(
            [model],
            ItemImages(WholeImages(self._store(plan, names), plan, names)),
            ids=names,
            batch_size=plan.batch_size,
            device=choose_device(self.config.training.accelerator),
        )

    def _labels(self, names: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.labels[name] for name in names], np.int64)
